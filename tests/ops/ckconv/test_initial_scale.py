"""Initial scale of CKConv2d, and its protection from the initialisers of the upstream libraries."""

import math

import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv, CKConv2d

ACTIVATIONS = ['sine', 'relu', 'swish', 'rff']


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize(
    'settings', [{}, {'kernel_size': (3, 9)}, {'groups': 4}, {'kernel_size': 1}, {'layers': 2, 'hidden': 4}], ids=str
)
def test_initial_kernel_has_variance_one_over_fan_in(activation, settings):
    torch.manual_seed(0)
    op = CKConv2d(**{'in_channels': 8, 'out_channels': 16, 'kernel_size': 7, **settings, 'activation': activation})
    fan_in = 8 // op.groups * math.prod(op.kernel_size)
    assert float(op.kernel().detach().var(unbiased=False)) * fan_in == pytest.approx(1, rel=1e-3)


def test_each_factor_of_an_initial_separable_kernel_has_variance_one_over_fan_in():
    torch.manual_seed(0)
    op = CKConv2d(64, 128, 7, groups=2, separable=True)
    depthwise, pointwise = (conv.weight.detach() for conv in op.to_conv2d())
    assert float(depthwise.var(unbiased=False)) * 49 == pytest.approx(1, rel=1e-3)
    assert float(pointwise.var(unbiased=False)) * 32 == pytest.approx(1, rel=0.1)
    assert float(op.kernel().detach().var(unbiased=False)) * 49 * 32 == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    ('activation', 'hidden'),
    [
        ('relu', 1),
        ('relu', 2),
        ('rff', 2),
        ('swish', 1),
        ('sine', 1),
    ],
)
def test_initial_kernels_of_narrow_nets_are_finite_and_moderate(activation, hidden):
    """A ReLU net of one unit can be 0 at every position, which no scale of its last layer fixes."""
    for seed in range(12):
        torch.manual_seed(seed)
        op = CKConv2d(3, 8, 3, activation=activation, hidden=hidden)
        assert max(float(p.detach().abs().max()) for p in op.parameters()) < 1e3, seed


def test_loading_does_not_rescale_the_kernel():
    torch.manual_seed(0)
    trained, other = CKConv2d(4, 8, 5, padding=2), CKConv2d(4, 8, 5, padding=2)
    with torch.no_grad():
        for p in trained.kernel_net.layers[-1].parameters():
            p.mul_(3)
    assert float(trained.kernel().detach().var(unbiased=False)) * 100 == pytest.approx(9, rel=1e-3)
    other.load_state_dict(trained.state_dict())
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(other.kernel(), trained.kernel()) and torch.equal(other(x), trained(x))


def test_a_layer_built_on_the_meta_device_can_be_initialised():
    op = CKConv2d(4, 8, 5, device='meta', activation='rff')
    assert all(t.is_meta for t in op.state_dict().values())
    op.to_empty(device='cpu')
    op.reset_parameters()
    assert float(op.kernel().detach().var(unbiased=False)) * 100 == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize('separable', [True, False])
@pytest.mark.parametrize(
    'rule', [{'type': 'Kaiming'}, {'type': 'Normal', 'std': 5.0}, {'type': 'Constant', 'val': 3.0}]
)
@pytest.mark.parametrize('layer', ['Conv2d', 'Linear', ['Conv2d', 'Linear', 'Conv1d', '_BatchNorm']], ids=str)
def test_initialisers_of_mmengine_do_not_change_the_kernel_net(separable, rule, layer):
    initialize = pytest.importorskip('mmengine.model').initialize
    torch.manual_seed(0)
    model = nn.Sequential(CKConv2d(4, 8, 3, separable=separable), nn.Conv2d(8, 8, 3), nn.Linear(8, 8))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    initialize(model, {**rule, 'layer': layer, 'bias': 0.25})
    after = model.state_dict()
    changed = {k for k, v in before.items() if not torch.equal(v, after[k])}
    names = ['0.bias', '1.weight', '1.bias'] * ('Conv2d' in layer) + ['2.weight', '2.bias'] * ('Linear' in layer)
    assert changed == set(names)


def test_a_conv_module_does_not_change_the_initial_kernel():
    cnn = pytest.importorskip('mmcv.cnn')
    torch.manual_seed(0)
    module = cnn.ConvModule(4, 8, 3, padding=1, conv_cfg={'type': CKConv, 'hidden': 8}, norm_cfg={'type': 'BN'})
    assert type(module.conv) is CKConv2d
    before = module.conv.kernel().detach().clone()
    module.init_weights()
    assert torch.equal(module.conv.kernel(), before)
    assert module(torch.randn(2, 4, 6, 6)).shape == (2, 8, 6, 6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_a_net_of_dead_units_is_resampled_in_half_precision(dtype):
    """Two ReLUs are both dead in a quarter of the draws; the variance of a constant kernel has no reciprocal."""
    for number in range(20):
        torch.manual_seed(number)
        op = CKConv2d(1, 1, 1, hidden=2, layers=2, activation='relu', dtype=dtype)
        assert torch.isfinite(op.kernel()).all() and op.kernel().abs().sum() > 0
