"""Every variant of every library with every operator: replacement, training, folding, loading, bad input."""

import copy
from collections import Counter

import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmkerv
from mmkerv.deploy.config import deploy_config
from mmkerv.ops import CKConv2d, CoCConv2d, switch_to_deploy
from mmkerv.ops.core.base import Conv2d
from tests.contract.backbones import BACKBONES, LIBRARIES, build, flat, outputs
from tests.engine.small_networks import retinanet, segmentor
from tests.ops.contract import relative

# Convolutions larger than 1x1 in the small networks of tests.contract.backbones; KervConv takes those of 1x1 too.
COUNTS = {
    'ResNet': {'7x7': 1, '3x3': 16},
    'ResNetV1c': {'3x3': 19},
    'ResNetV1d': {'3x3': 19},
    'HRNet': {'3x3': 40},
    'ShuffleNetV2': {'3x3': 1, '3x3 depthwise': 19},
    'MobileNetV2': {'3x3': 1, '3x3 depthwise': 17},
    'MobileNetV3': {'3x3': 1, '3x3 depthwise': 3, '5x5 depthwise': 8},
}
# Libraries without such a network: the variant falls back to mmpretrain.
FALLBACK = {('ResNetV1c', 'mmdet'), ('ShuffleNetV2', 'mmdet'), ('ShuffleNetV2', 'mmseg'), ('MobileNetV3', 'mmdet')}
OPERATORS = {
    'coc': dict(type='CoCConv'),
    'kerv': dict(type='KervConv', kernel='sigmoid'),
    'ck': dict(type='CKConv'),
    'separable': dict(type='CKConv', separable=True, kernel_extent=7),
}
IMAGES = [(2, 3, 64, 64)]


def operators(net):
    return {name: m for name, m in net.named_modules() if isinstance(m, Conv2d)}


def kernel_of(layer):
    size = 'x'.join(map(str, layer.kernel_size))
    return f'{size} depthwise' if layer.groups == layer.in_channels > 1 else size


def train_step(net):
    """Run one forward and backward pass; afterwards the running statistics of the norms are those of the batch."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    out = flat(net(torch.randn(IMAGES[0], generator=generator)))
    assert all(torch.isfinite(tensor).all() for tensor in out)
    sum(tensor.square().mean() for tensor in out).backward()
    net.eval()


@torch.no_grad()
def perturb(operator):
    """Move the kernel by at least 0.3 of its norm; the basic kernel stays the same."""
    before, step = operator.kernel(), 0.1
    layer = operator.kernel_net.layers[-1] if isinstance(operator, CKConv2d) else operator.super_layers[0]
    while (operator.kernel() - before).norm() < 0.3 * before.norm():
        layer.weight.add_(step * layer.weight.norm().clamp_min(1) * torch.randn_like(layer.weight))
        step *= 1.5


@pytest.mark.parametrize(
    ('host', 'operator'),
    [
        pytest.param(host, operator, marks=() if host == 'mmdet' or operator == 'coc' else pytest.mark.long)
        for host in LIBRARIES
        for operator in OPERATORS
    ],
)
@pytest.mark.parametrize('family', BACKBONES)
def test_a_variant_trains_and_folds(family, host, operator):
    ours = {**BACKBONES[family], 'type': f'mmkerv.{family}', 'conv_cfg': OPERATORS[operator]}
    library = 'mmpretrain' if (family, host) in FALLBACK else host
    pytest.importorskip(library)
    net = build(host, ours, init=False)
    assert type(net).__mro__[1].__module__.startswith(f'{library}.')
    found = operators(net)
    counts = Counter(map(kernel_of, found.values()))
    if operator == 'kerv':
        assert counts.pop('1x1') and not any(isinstance(m, nn.Conv2d) for m in net.modules())
    assert counts.total() == sum(COUNTS[family].values())
    if operator != 'separable':
        assert counts == COUNTS[family]

    start = {name: copy.deepcopy(layer.state_dict()) for name, layer in found.items()}
    if operator != 'kerv':
        for layer in found.values():
            perturb(layer)
    train_step(net)
    for name, layer in found.items():
        for key, parameter in layer.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), f'{name}.{key}'
            assert parameter.grad.any(), f'{name}.{key} has no gradient'
    net.zero_grad()

    deployed = deploy_config(Config(dict(default_scope=host, model=ours)), ('KervConv',) if operator == 'kerv' else ())
    if operator == 'kerv':
        report = switch_to_deploy(net)
        assert list(report.kept) == list(found) and report.replaced == []
        assert deployed.model.type == f'mmkerv.{family}'
        return
    # In float32 the norms of these untrained networks magnify what Fourier transforms round.
    net.double()
    expected, wrong = outputs(net, IMAGES), copy.deepcopy(net)
    assert switch_to_deploy(net).replaced == list(found)
    if operator != 'separable':
        assert deployed.model.type == f'{library}.{family}', "upstream's class"
    plain = build(host, deployed.model, init=False).double()
    names = {name for name, m in plain.named_modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1}
    assert names == {f'{name}.0' if operator == 'separable' else name for name in found}
    plain.load_state_dict(net.state_dict())
    assert max(map(relative, outputs(plain, IMAGES), expected)) < 1e-9
    for name, state in start.items():
        wrong.get_submodule(name).load_state_dict(state)
    switch_to_deploy(wrong)
    plain.load_state_dict(wrong.state_dict())
    assert max(map(relative, outputs(plain, IMAGES), expected)) > 1e-2, 'a fold that drops the super layers differs'


@pytest.mark.parametrize('host', LIBRARIES)
def test_weight_standardisation_is_that_of_upstreams_conv_cfg(host):
    """mmcv's ConvWS by `where` gives the weights and outputs of upstream's `conv_cfg`."""
    from mmcv.cnn.bricks.conv_ws import ConvWS2d

    cfg = dict(BACKBONES['ResNet'], conv_cfg=dict(type='ConvWS'))
    upstream = build(host, cfg)
    net = build(host, {**cfg, 'type': 'mmkerv.ResNet'}, where=dict(kernel_sizes='all'))
    assert sum(isinstance(m, ConvWS2d) for m in net.modules()) == 20
    weights = upstream.state_dict()
    assert net.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert all(map(torch.equal, outputs(net, IMAGES), outputs(upstream, IMAGES)))
    stages = build(host, {**cfg, 'type': 'mmkerv.ResNet'}, where=dict(stages=(4,), stem=False))
    assert sum(isinstance(m, ConvWS2d) for m in stages.modules()) == 4
    assert switch_to_deploy(net) == ([], {})


def test_weight_standardisation_of_hrnet_reaches_layer1():
    from mmcv.cnn.bricks.conv_ws import ConvWS2d

    cfg = dict(BACKBONES['HRNet'], conv_cfg=dict(type='ConvWS'))
    upstream, net = (
        build('mmpretrain', cfg, init=False),
        build('mmpretrain', cfg, init=False, type='mmkerv.HRNet', where=dict(kernel_sizes='all')),
    )
    assert not any(isinstance(m, ConvWS2d) for m in upstream.layer1.modules())
    assert all(isinstance(m, ConvWS2d) for m in net.modules() if isinstance(m, nn.Conv2d))


def plain_model(cfg):
    """Build a model without operators."""
    for part in cfg.model.values():
        for cell in part if isinstance(part, list) else [part]:
            if isinstance(cell, dict):
                cell.pop('conv_cfg', None)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return MODELS.build(cfg.model).eval()


HEAD_CONVS = [f'bbox_head.{branch}_convs.{i}.conv' for branch in ('cls', 'reg') for i in range(2)]
NECK_CONVS = [f'neck.fpn_convs.{i}.conv' for i in range(5)]


@pytest.mark.parametrize(
    ('names', 'replaced'),
    [
        (['^neck', r'^bbox_head\.(cls|reg)_convs'], NECK_CONVS + HEAD_CONVS),
        (['neck', 'bbox_head'], [*NECK_CONVS, *HEAD_CONVS, 'bbox_head.retina_cls', 'bbox_head.retina_reg']),
        ('bbox_head.*_convs', HEAD_CONVS),
    ],
    ids=str,
)
def test_neck_and_head_of_a_detector_are_selected_by_name(names, replaced):
    pytest.importorskip('mmdet')
    detector = plain_model(retinanet())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = flat(detector(x))
        mmkerv.convert(detector, dict(type='CoCConv'), dict(names=names))
        assert sorted(operators(detector)) == sorted(replaced)
        assert max(map(relative, flat(detector(x)), expected)) < 1e-5


def test_heads_of_a_segmentor_are_selected_by_name():
    pytest.importorskip('mmseg')
    model = plain_model(segmentor())
    mmkerv.convert(model, dict(type='CoCConv'), dict(names=['decode_head', '^auxiliary_head']))
    heads = ('auxiliary_head.0', 'decode_head')
    assert sorted(operators(model)) == sorted(f'{h}.{conv}.conv' for h in heads for conv in ('convs.0', 'conv_cat'))
    assert all(isinstance(m, CoCConv2d) for m in operators(model).values())


@pytest.mark.parametrize('host', LIBRARIES)
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(where=dict(names='head')),
            'no convolution was replaced by CoCConv: the model has 7x7: 1, 3x3: 16, 1x1: 3',
        ),
        (dict(where=dict(stages=(5,), stem=False)), 'selects none of them'),
        (dict(where=dict(kernel_sizes=(1,))), 'leaves plain .1x1: 3.*replace_1x1=True'),
        (dict(host='mmrotate'), "host must be one of mmdet, mmseg, mmpretrain, got 'mmrotate'"),
        (
            dict(conv_cfg=dict(type='CKConv', method='fft')),
            r'conv1 \(7x7, 3 -> 8 channels, groups=1\): .*stride.*where can leave this layer out',
        ),
        (
            dict(conv_cfg=dict(type='CoCConv', super_norm='ln', share='co'), where=dict(stages=(2,), stem=False)),
            r'layer2\.0\.conv1 \(3x3, 8 -> 16 channels, groups=1\): super_norm',
        ),
        (dict(conv_cfg=dict(type='CocConv')), "'CocConv' is not an operator of mmkerv"),
    ],
    ids=str,
)
def test_bad_input_is_refused(host, changes, message):
    cfg = {**BACKBONES['ResNet'], 'type': 'mmkerv.ResNet', 'conv_cfg': dict(type='CoCConv')}
    with pytest.raises((ValueError, TypeError), match=message):
        build(host, cfg, init=False, **changes)


def test_the_error_names_the_depthwise_layer_that_cannot_be_replaced():
    cfg = {**BACKBONES['ShuffleNetV2'], 'type': 'mmkerv.ShuffleNetV2', 'conv_cfg': dict(type='CKConv', method='fft')}
    message = r'layers\.0\.0\.branch1\.0\.conv \(3x3, 24 -> 24 channels, groups=24\)'
    with pytest.raises(ValueError, match=message):
        build('mmpretrain', cfg, init=False, where=dict(stem=False))
