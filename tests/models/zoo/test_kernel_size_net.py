"""KernelSizeNet and its configs: what each experiment compares."""

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.models import KernelSizeNet
from mmkerv.ops import DepthwiseSeparableConv2d, StackedConv2d, switch_to_deploy
from tests.ops.contract import relative

# Classes, kernel sizes and weights of the convolutions in each block.
EXPERIMENTS = {
    '3x3': ([nn.Conv2d] * 4, 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64)),
    '5x5': ([nn.Conv2d] * 2, 25 * (3 * 32 + 32 * 64)),
    'separable': ([DepthwiseSeparableConv2d] * 4, 9 * (3 + 32 + 32 + 64) + 3 * 32 + 32 * 32 + 32 * 64 + 64 * 64),
    'stacked': ([StackedConv2d] * 2, 9 * (3 * 3 + 3 * 32 + 32 * 32 + 32 * 64)),
}


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_each_experiment_changes_the_convolutions_alone(name):
    kinds, weights = EXPERIMENTS[name]
    cfg = Config.fromfile(f'configs/cifar/kernel_size_{name}_cifar10.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model).eval()
    layers = [m for m in model.backbone.blocks if not isinstance(m, (nn.ReLU, nn.MaxPool2d))]
    assert [type(m) for m in layers] == kinds
    assert sum(p.numel() for m in layers for key, p in m.named_parameters() if key != 'bias') == weights
    x = torch.rand(2, 3, 32, 32)
    (feature,) = model.backbone(x)
    assert feature.shape == (2, 512)
    switch_to_deploy(model)
    assert relative(model.backbone(x)[0], feature) < 1e-4


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(convs=0), 'convs must be >= 1, got 0'),
        (dict(image_size=2), 'image_size must be >= 4, got 2'),
        (dict(in_channels=0), 'in_channels must be >= 1, got 0'),
        (dict(kernel_size=4), 'kernel_size must be odd.*got 4; use 5'),
        (dict(kernel_size=2, conv_cfg=dict(type='mmkerv.StackedConv')), 'kernel_size must be odd.*got 2; use 3'),
        (dict(kernel_size=0), 'kernel_size must be >= 1, got 0'),
        (dict(kernel_size=(3, 5)), 'kernel_size must be an integer >= 1'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        KernelSizeNet(**settings)
