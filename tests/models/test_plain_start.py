"""Operators that start as the plain convolution, in networks that were plain."""

import copy
import logging

import pytest
import torch
from torch import nn

import mmkerv
from mmkerv.operator_table import operator_name
from mmkerv.ops import WeightedConv2d
from tests.ops.contract import relative

STARTS_PLAIN = {
    'dcls': dict(type='DCLSConv', kernel_extent=7),
    'reparam': dict(type='ReparamConv', preset='replk', kernel_extent=7, branch_norm=None),
    'repvgg': dict(type='ReparamConv', preset='repvgg', branch_norm=None),
    'weighted': dict(type='WeightedConv'),
}
# By convert only, which changes the weights.
DENSE = {
    'density': dict(type='WeightedConv', density=0.5),
    'fixed': dict(type='WeightedConv', density=0.7, learnable=False),
    'rescale': dict(type='WeightedConv', density=0.3, rescale=True),
}


@pytest.fixture(scope='module')
def resnet() -> nn.Module:
    """torchvision's ResNet-50 as after training: its norms do not hide the residual branches."""
    models = pytest.importorskip('torchvision.models')
    torch.manual_seed(0)
    model = models.resnet50(num_classes=4)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.0)
            norm.bias.normal_(std=0.1)
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


def image() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def maps(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the four stages of a ResNet of either library."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    found = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        found.append(x)
    return found


@pytest.mark.parametrize('name', [pytest.param('dcls', marks=pytest.mark.long), *list(STARTS_PLAIN)[1:]])
def test_a_torchvision_checkpoint_gives_the_plain_outputs(resnet, name):
    pytest.importorskip('mmpretrain')
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    network = dict(type='mmkerv.ResNet', depth=50, out_indices=(0, 1, 2, 3), conv_cfg=STARTS_PLAIN[name])
    backbone = MODELS.build(network)
    weights = {key: value for key, value in resnet.state_dict().items() if not key.startswith('fc.')}
    backbone.load_state_dict(weights)
    replaced = [m for m in backbone.modules() if operator_name(type(m)) and not isinstance(m, nn.Conv2d)]
    assert len(replaced) == 17
    # mmpretrain's eval() returns None.
    backbone.eval()
    with torch.no_grad():
        outputs = backbone(image())
    for ours, plain in zip(outputs, maps(resnet, image()), strict=True):
        assert plain.std() > 0.1 and relative(ours, plain) <= 1e-5


@pytest.mark.parametrize('name', [*STARTS_PLAIN, *DENSE])
def test_a_converted_network_gives_the_plain_outputs(resnet, name, monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.models.placement.log', lambda text, level=logging.INFO: lines.append(text))
    model = mmkerv.convert(copy.deepcopy(resnet), {**STARTS_PLAIN, **DENSE}[name])
    for ours, plain in zip(maps(model, image()), maps(resnet, image()), strict=True):
        assert relative(ours, plain) <= 1e-5
    assert ('17 weights were divided by the densities, so that the network computes what' in lines[0]) == (
        name in DENSE
    )


def test_a_weight_that_layers_share_is_divided_once():
    plain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    mmkerv.share_kernels(plain)
    x = torch.randn(1, 4, 9, 9)
    expected = plain(x)
    model = mmkerv.convert(plain, DENSE['density'])
    assert model[0].weight is model[1].weight and isinstance(model[0], WeightedConv2d)
    assert relative(model(x), expected) <= 1e-5


def test_weights_are_unchanged_where_the_conversion_fails():
    plain = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 5))
    before = copy.deepcopy(plain.state_dict())
    with pytest.raises(ValueError, match='density must have 2 values'):
        mmkerv.convert(plain, dict(type='WeightedConv', density=(0.5,)))
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
