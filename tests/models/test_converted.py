"""`mmkerv.Converted`: networks without a `conv_cfg` of their own, such as mmpretrain's DenseNet."""

import copy
import pickle

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain')

from mmcv.cnn import fuse_conv_bn
from mmengine.registry import MODELS, init_default_scope

from mmkerv.ops import CoCConv2d, KervConv2d, switch_to_deploy
from tests.ops.contract import relative

# DenseNet-121's shape with fewer layers.
DENSENET = {'type': 'DenseNet', 'arch': {'growth_rate': 8, 'depths': [2, 3, 2], 'init_channels': 16}}
LINEAR = {'type': 'mmkerv.KervConv', 'kernel': 'linear'}
POLYNOMIAL = {'type': 'mmkerv.KervConv', 'degree': 3, 'balance': 2.0}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def build(cfg):
    torch.manual_seed(0)
    net = MODELS.build(copy.deepcopy(cfg))
    net.init_weights()
    net.eval()
    return net


def converted(conv_cfg=LINEAR, **rest):
    return build({'type': 'mmkerv.Converted', 'backbone': DENSENET, 'conv_cfg': conv_cfg, **rest})


def operators(net):
    return [name for name, m in net.named_modules() if isinstance(m, (KervConv2d, CoCConv2d))]


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ('where', 'expected'),
    [
        ({'stages': ()}, ['stem.0']),
        ({'stem': False, 'stages': (2,)}, [f'stages.1.block.{i}.conv2' for i in range(3)]),
        ({'stem': False, 'names': 'transitions', 'kernel_sizes': 'all'}, ['transitions.0.conv', 'transitions.1.conv']),
    ],
    ids=str,
)
def test_where_selects_the_stem_and_stages_of_densenet(where, expected):
    plain, net = build(DENSENET), converted(where=where)
    assert type(net) is type(plain) and operators(net) == expected
    assert set(net.state_dict()) == set(plain.state_dict())
    assert relative(net(images())[-1], plain(images())[-1]) < 1e-5


def test_1x1_convolutions_become_kervolutions():
    net = converted(POLYNOMIAL, where={'kernel_sizes': 'all', 'names': r'block\.0\.conv1'})
    assert [net.get_submodule(n).kernel_size for n in operators(net)] == [(1, 1)] * 3
    feature = net(images())[-1]
    assert bool(feature.isfinite().all())
    assert relative(feature, build(DENSENET)(images())[-1]) > 1e-3


def test_a_polynomial_stem_trains_pickles_and_is_not_fused():
    net = converted(POLYNOMIAL, where={'stages': ()})
    expected = net(images())[-1]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fuse_conv_bn(copy.deepcopy(net))):
        assert relative(other(images())[-1], expected) < 1e-4
    net.train()
    net(images())[-1].square().mean().backward()
    assert float(net.stem[0].weight.grad.abs().max()) > 0


def test_without_an_operator_the_network_stays_plain():
    net = converted(None)
    assert operators(net) == [] and type(net.stem[0]) is nn.Conv2d


def test_mobilenet_converts_to_coc_and_folds():
    net = build(
        {
            'type': 'mmkerv.Converted',
            'backbone': {'type': 'MobileNetV2', 'widen_factor': 0.25},
            'conv_cfg': {'type': 'CoCConv'},
            'where': {'depthwise': False, 'names': '^conv1'},
        }
    )
    assert operators(net) == ['conv1.conv']
    assert switch_to_deploy(net).replaced == ['conv1.conv']


@pytest.mark.parametrize(
    ('cfg', 'error', 'message'),
    [
        ({'backbone': 'DenseNet'}, TypeError, "backbone must be a dict with a 'type'"),
        ({'backbone': {'arch': '121'}}, TypeError, "backbone must be a dict with a 'type'"),
        ({'backbone': {'type': 'DenseNett'}}, KeyError, 'DenseNett'),
        (
            {'backbone': DENSENET, 'conv_cfg': LINEAR, 'where': {'stages': (9,), 'stem': False}},
            ValueError,
            'selects none',
        ),
        ({'backbone': DENSENET, 'where': {'stage': (1,)}}, TypeError, "did you mean 'stages'"),
    ],
)
def test_bad_input_is_refused(cfg, error, message):
    with pytest.raises(error, match=message):
        MODELS.build({'type': 'mmkerv.Converted', **cfg})
