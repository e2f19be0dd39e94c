"""A plain ResNet-50 with operators whose kernel depends on the input: its outputs, its first step, its parameters."""

import copy

import pytest
import torch

import mmkerv
from mmkerv.ops import CondConv2d, FDConv2d
from tests.ops.contract import relative

torchvision = pytest.importorskip('torchvision')

BOTTLENECKS = {'stem': False, 'names': [r'\.conv\d$']}
KINDS = {'FDConv': (FDConv2d, 48), 'CondConv': (CondConv2d, 48)}


@pytest.mark.parametrize('name', KINDS)
def test_a_plain_network_keeps_its_outputs_and_its_learning_rate(name):
    torch.manual_seed(0)
    plain = torchvision.models.resnet50(num_classes=10)
    model = mmkerv.convert(copy.deepcopy(plain), {'type': name}, BOTTLENECKS)
    kind, count = KINDS[name]
    assert sum(isinstance(m, kind) for m in model.modules()) == count
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert relative(model.eval()(x), plain.eval()(x)) < 1e-5
    for network in (plain, model):
        network(x).logsumexp(1).sum().backward()
    gradients = dict(plain.named_parameters())
    for key, parameter in model.named_parameters():
        if key in gradients:
            assert relative(parameter.grad, gradients[key].grad) < 1e-3, key
    added = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert name != 'FDConv' or added == 3586704
