"""Conversion of the DCLS authors' ConvNeXt checkpoints, of which tests make small ones by the authors' names."""

import copy
import re

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS, init_default_scope

from mmkerv.engine.checkpoint.convert_dcls import convert_dcls
from mmkerv.engine.checkpoint.match import require_match
from mmkerv.errors import ArgumentError, CheckpointMismatchError, NonFiniteWeightsError

ARCH = {'depths': [1, 2, 1, 1], 'channels': [8, 16, 24, 32]}
# Ours, and the authors' name.
THEIRS = (
    (r'backbone\.', ''),
    (r'depthwise_conv\.values', 'dwconv.weight'),
    (r'depthwise_conv\.positions', 'dwconv.P'),
    (r'depthwise_conv\.width', 'dwconv.SIG'),
    (r'depthwise_conv\.bias', 'dwconv.bias'),
    (r'pointwise_conv', 'pwconv'),
    (r'^norm3\.', 'norm.'),
    (r'^head\.fc\.', 'head.'),
)


def network(version: str) -> torch.nn.Module:
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    dcls = dict(type='mmkerv.DCLSConv', kernel_extent=9, points=5, positions_init='normal', version=version)
    backbone = dict(
        type='mmkerv.Converted',
        model=dict(type='ConvNeXt', arch=copy.deepcopy(ARCH), layer_scale_init_value=1.0),
        conv_cfg=dcls,
        where=dict(names=['depthwise_conv']),
        share=dict(names='positions'),
    )
    head = dict(type='LinearClsHead', num_classes=3, in_channels=32)
    model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def authors(model: torch.nn.Module, version: str) -> dict:
    """The state dict as the authors' code would save it."""
    theirs = {}
    for key, value in model.state_dict().items():
        for pattern, name in THEIRS:
            key = re.sub(pattern, name, key)
        horizontal_first = version != 'v0' and key.endswith(('.P', '.SIG'))
        theirs[key] = value.flip(0) if horizontal_first else value
    assert 'stages.1.1.dwconv.P' in theirs and 'head.weight' in theirs and 'downsample_layers.0.0.weight' in theirs
    return theirs


@pytest.mark.parametrize('version', ['v0', 'v1', 'max', 'gauss'])
@torch.no_grad()
def test_the_converted_network_computes_what_the_authors_does(version):
    model = network(version)
    converted, names = convert_dcls(authors(model, version), version)
    assert set(names) == set(authors(model, version)) and set(names.values()) == set(converted)
    other = network(version)
    for parameter in other.parameters():
        parameter.zero_()
    require_match(other, converted, 'a.pth')
    other.load_state_dict(converted)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(other(x, mode='tensor')[0], model(x, mode='tensor')[0])


@torch.no_grad()
def test_the_backbone_of_timm_computes_the_same():
    pytest.importorskip('timm')
    model = network('v0')
    converted, names = convert_dcls(authors(model, 'v0'), layout='timm')
    assert len(names) == len(converted) and 'timm_model.stages_1.blocks.1.conv_dw.positions' in converted
    backbone = dict(
        type='mmkerv.TimmBackbone',
        model_name='convnext_tiny',
        depths=ARCH['depths'],
        dims=ARCH['channels'],
        conv_cfg=dict(type='mmkerv.DCLSConv', kernel_extent=9, points=5, positions_init='normal'),
        where=dict(names=['conv_dw']),
    )
    timm = MODELS.build(backbone).eval()
    timm.load_state_dict(converted)
    x = torch.randn(1, 3, 64, 64)
    norm = model.backbone.norm3
    pooled = torch.nn.functional.layer_norm(timm(x)[-1].mean((2, 3)), (32,), norm.weight, norm.bias, norm.eps)
    assert torch.allclose(pooled, model.backbone(x)[0], atol=1e-5)


def test_backbones_of_detectors_are_converted_without_the_rest():
    theirs = {f'backbone.{key}': value for key, value in authors(network('v0'), 'v0').items() if 'head' not in key}
    theirs = {re.sub(r'backbone\.norm\.', 'backbone.norm3.', key): value for key, value in theirs.items()}
    converted, _ = convert_dcls({**theirs, 'neck.conv.weight': torch.zeros(3)})
    assert set(converted) == {key for key in network('v0').state_dict() if key.startswith('backbone.')}


def test_timm_leaves_out_the_norms_of_the_outputs_and_says_so(monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.engine.checkpoint.convert_dcls.log', lines.append)
    theirs = {f'backbone.{key}': value for key, value in authors(network('v0'), 'v0').items() if 'head' not in key}
    theirs = {re.sub(r'backbone\.norm\.', 'backbone.norm3.', key): value for key, value in theirs.items()}
    converted, names = convert_dcls(theirs, layout='timm')
    assert set(theirs) - set(names) == {'backbone.norm3.weight', 'backbone.norm3.bias'}
    assert len(converted) == len(names) and len(lines) == 1
    assert 'left out 2 parameters of the norms of the outputs' in lines[0] and 'backbone.norm3.bias' in lines[0]
    with pytest.raises(CheckpointMismatchError, match=r'^1 parameter has no place .*: backbone\.other'):
        convert_dcls({**theirs, 'backbone.other': torch.ones(1)}, layout='timm')


@pytest.mark.parametrize(
    ('change', 'kind', 'message'),
    [
        (lambda d: [d.pop(k) for k in list(d) if k.endswith('.P')], CheckpointMismatchError, 'has no positions'),
        (lambda d: d.pop('stages.0.0.dwconv.weight'), CheckpointMismatchError, r'dwconv.weight must be \(C, 1, n\)'),
        (lambda d: d.update({'stages.0.0.dwconv.weight': torch.ones(8, 1, 7, 7)}), CheckpointMismatchError, 'must be'),
        (lambda d: d.update({'stages.0.0.dwconv.SIG': d['stages.0.0.dwconv.P']}), CheckpointMismatchError, '--version'),
        (lambda d: d.update(other=torch.ones(1)), CheckpointMismatchError, '^1 parameter has no place .*: other'),
        (lambda d: d.update(epoch=3), CheckpointMismatchError, 'epoch is a int'),
        (lambda d: d['stages.0.0.dwconv.P'].fill_(float('nan')), NonFiniteWeightsError, 'NaN in stages.0.0.dwconv.P'),
    ],
    ids=['plain', 'incomplete', 'shape', 'version', 'other', 'no tensor', 'nan'],
)
def test_other_checkpoints_are_refused(change, kind, message):
    theirs = {key: value.clone() for key, value in authors(network('v0'), 'v0').items()}
    change(theirs)
    with pytest.raises(kind, match=message):
        convert_dcls(theirs)


def test_an_unknown_version_is_refused():
    with pytest.raises(ArgumentError, match='version must be one of'):
        convert_dcls({}, 'v2')
    with pytest.raises(ArgumentError, match='layout must be one of'):
        convert_dcls({}, layout='mmdet')
