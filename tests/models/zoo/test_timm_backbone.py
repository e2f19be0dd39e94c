"""``mmkerv.TimmBackbone``: timm's features, its checkpoints in every spelling, frozen stages, operators, layers."""

import re

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')

from mmengine.model import BaseModule
from mmengine.registry import MODELS

from mmkerv.engine import match_checkpoint, require_match
from mmkerv.errors import ArgumentError, InstallationError
from mmkerv.models.zoo import timm_backbone
from mmkerv.models.zoo.timm_backbone import TimmBackbone
from mmkerv.ops import switch_to_deploy
from mmkerv.ops.core.base import ConvNd


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(timm_backbone, 'importable', lambda name: False)
    with pytest.raises(InstallationError, match=r'(?s)TimmBackbone needs timm.*fix: .*install.*mmkerv\[timm\]'):
        TimmBackbone('resnet10t')


timm = pytest.importorskip('timm')

NETWORKS = ('convnext_atto', 'inception_next_atto', 'fasternet_t0', 'mixnet_s', 'resnet10t', 'efficientvit_b0')
every_network = pytest.mark.parametrize('name', NETWORKS)


def image(size=64):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


@every_network
@torch.no_grad()
def test_a_released_checkpoint_of_the_classifier_loads_and_gives_timms_features(name):
    torch.manual_seed(1)
    classifier = timm.create_model(name).eval()
    features = timm.create_model(name, features_only=True).eval()
    net = MODELS.build(dict(type='mmkerv.TimmBackbone', model_name=name)).eval()
    released = classifier.state_dict()
    flat = {re.sub(r'^([^.]+)\.([^.]+)\.', r'\1_\2.', key): value for key, value in released.items()}
    features.load_state_dict({key: (released | flat)[key] for key in features.state_dict()})
    expected = features(image())
    head = {key: value for key, value in flat.items() if key.startswith(('head', 'classifier', 'fc'))}
    wrapped = features.state_dict() | head
    spellings = (released, features.state_dict(), {f'timm_model.{key}': value for key, value in wrapped.items()})
    for weights in spellings:
        for parameter in net.parameters():
            parameter.zero_()
        match = require_match(net, weights, 'a.pth')
        assert len(match.loaded) == len(net.state_dict()) and not match.operator_only
        net.load_state_dict(weights)
        assert all(torch.equal(a, b) for a, b in zip(net(image()), expected, strict=True))
    assert net.channels == tuple(y.shape[1] for y in expected)
    assert net.strides == tuple(64 // y.shape[2] for y in expected)
    assert all(key.startswith('timm_model.') for key in net.state_dict())


@every_network
@torch.no_grad()
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
def test_outputs_have_the_memory_layout_of_the_image(name, layout):
    net = MODELS.build(dict(type='mmkerv.TimmBackbone', model_name=name)).eval().to(memory_format=layout)
    assert all(y.is_contiguous(memory_format=layout) for y in net(image().contiguous(memory_format=layout)))


@pytest.mark.parametrize('conv_cfg', [None, dict(type='CoCConv'), dict(type='LowRankConv', rank=4096)], ids=str)
@pytest.mark.parametrize('name', ['resnet10t', 'hrnet_w18_small'])
@torch.no_grad()
def test_pretrained_weights_outlive_operators_and_init_weights(monkeypatch, name, conv_cfg):
    """timm's HRNet has an init_weights of its own."""
    create = timm.create_model

    def downloaded(name, pretrained=False, **kwargs):
        model = create(name, **kwargs)
        for parameter in model.parameters() if pretrained else ():
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)) / 10)
        return model

    monkeypatch.setattr(timm, 'create_model', downloaded)
    expected = TimmBackbone(name, pretrained=True).eval()(image())
    model = BaseModule()
    where = dict(names='conv2$') if conv_cfg else None
    model.backbone = TimmBackbone(name, pretrained=True, conv_cfg=conv_cfg, where=where)
    model.init_weights()
    for found, wanted in zip(model.eval().backbone(image()), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_other_keys_are_still_reported():
    net = TimmBackbone('resnet10t')
    missing, unexpected = net.load_state_dict({'layer9.weight': torch.zeros(1)}, strict=False)
    assert unexpected == ['timm_model.layer9.weight'] and 'timm_model.conv1.0.weight' in missing


def test_inside_a_model_the_prefix_is_kept():
    model = nn.ModuleDict({'backbone': TimmBackbone('resnet10t', out_indices=(1, 2))})
    weights = {f'backbone.{key}': value for key, value in timm.create_model('resnet10t').state_dict().items()}
    assert not match_checkpoint(model, weights).unexpected
    model.load_state_dict(weights)
    assert torch.equal(model['backbone'].timm_model.layer1[0].conv1.weight, weights['backbone.layer1.0.conv1.weight'])


@torch.no_grad()
def test_features_whose_channels_are_last_are_permuted():
    net = TimmBackbone('swin_tiny_patch4_window7_224', img_size=64, depths=(1, 1, 1, 1)).eval()
    assert [y.shape[1] for y in net(image())] == [*net.channels]


def test_transformers_load_their_checkpoint():
    settings = dict(img_size=32, depth=2)
    net = TimmBackbone('vit_tiny_patch16_224', out_indices=(0, 1), **settings)
    net.load_state_dict(timm.create_model('vit_tiny_patch16_224', **settings).state_dict())
    assert net.channels == (192, 192)
    assert [net.get_layer_depth(f'timm_model.model.blocks.{i}.attn.qkv.weight')[0] for i in (0, 1)] == [1, 2]


def test_frozen_stages_norm_eval_and_recomputation():
    net = TimmBackbone('resnet10t', frozen_stages=1, norm_eval=True, with_cp=True).train()
    inner = net.timm_model
    fixed = {name.split('.')[1] for name, p in net.named_parameters() if not p.requires_grad}
    assert fixed == {'conv1', 'bn1', 'layer1'}
    assert not inner.layer1.training and inner.layer2.training and not inner.layer2[0].bn1.training
    net(image())[-1].sum().backward()
    assert inner.layer2[0].conv1.weight.grad is not None and inner.layer1[0].conv1.weight.grad is None
    assert TimmBackbone('resnet10t', frozen_stages=0).timm_model.layer1.training


@torch.no_grad()
def test_operators_are_placed_by_where_and_fold():
    torch.manual_seed(0)
    conv_cfg = dict(type='ReparamConv', preset='unirep', kernel_extent=13)
    net = TimmBackbone('convnext_atto', conv_cfg=conv_cfg, where=dict(stages=(3,), kernel_sizes=(7,))).eval()
    operators = [name for name, m in net.named_modules() if isinstance(m, ConvNd)]
    assert len(operators) == 6 and all(name.startswith('timm_model.stages_2.') for name in operators)
    # Weights of the plain network load.
    result = net.load_state_dict(timm.create_model('convnext_atto').state_dict(), strict=False)
    assert not result.unexpected_keys and all('conv_dw' in key for key in result.missing_keys)
    expected = net(image())
    assert len(switch_to_deploy(net).replaced) == 6
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(net(image()), expected))


def test_a_kernel_that_an_operator_does_not_have_is_reported():
    net = TimmBackbone('resnet10t', conv_cfg=dict(type='CKConv'), where=dict(stages=(4,), kernel_sizes=(3,)))
    result = net.load_state_dict(timm.create_model('resnet10t').state_dict(), strict=False)
    assert 'timm_model.layer4.0.conv1.weight' in result.unexpected_keys


def test_layers_for_layer_wise_rates_are_timms():
    net = TimmBackbone('convnext_atto', conv_cfg=dict(type='DCLSConv', kernel_extent=9), where=dict(kernel_sizes=(7,)))
    depths = {name: net.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in net.named_parameters()}
    assert depths['timm_model.stem_0.weight'] == (0, 14)
    blocks = [depths[f'timm_model.stages_2.blocks.{i}.conv_dw.weight'][0] for i in range(6)]
    assert blocks == sorted(blocks)
    for name, depth in depths.items():
        if name.endswith('.positions'):
            assert depth == depths[name.replace('.positions', '.weight')]


def test_split_operators_fold_if_asked_to():
    conv_cfg = dict(type='InceptionDWConv')
    net = TimmBackbone('convnext_atto', conv_cfg=conv_cfg, where=dict(stages=(3,), kernel_sizes=(7,)))
    assert len(net.switch_to_deploy().kept) == 6
    report = net.switch_to_deploy(split='dense')
    assert len(report.replaced) == 6 and not report.kept


def test_one_output_may_be_an_integer():
    assert TimmBackbone('resnet10t', out_indices=3).channels == TimmBackbone('resnet10t', out_indices=(3,)).channels


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(model_name='convnext_tny'), "got 'convnext_tny'; did you mean 'convnext_tiny'"),
        (dict(model_name='resnet10t', out_indices=(9,)), r"'resnet10t' as a backbone with out_indices=\(9,\)"),
        (dict(model_name='resnet10t', out_indices=1.5), 'out_indices must be one integer or several, got 1.5'),
        (dict(model_name='resnet10t', out_indices='3'), "out_indices must be one integer or several, got '3'"),
        (dict(model_name='resnet10t', out_indices=()), r'out_indices must be one integer or several, got \(\)'),
        (dict(model_name='resnet10t', frozen_stages=5), 'frozen_stages must be <= 4, the stages of resnet10t, got 5'),
        (dict(model_name='resnet10t', norm_eval='yes'), 'norm_eval'),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises((ArgumentError, TypeError), match=message):
        TimmBackbone(**settings)
