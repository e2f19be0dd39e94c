"""The authors' form of the kernel net: weight normalisation and its start."""

import copy
import math

import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv1d, CKConv2d, switch_to_deploy
from tests.ops.contract import relative

OFFICIAL = {'hidden': 32, 'omega_0': 30.0, 'weight_norm': True, 'init': 'official'}


def layer(**options) -> CKConv1d:
    torch.manual_seed(0)
    return CKConv1d(4, 8, 50, **{**OFFICIAL, **options})


def authors_net(op: CKConv1d) -> nn.Module:
    """The same net of torch's layers with torch's weight normalisation, for positions (P, 1)."""

    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(op.options.omega_0 * x)

    modules = []
    for ours in op.kernel_net.layers:
        linear = nn.utils.parametrizations.weight_norm(nn.Linear(ours.weight.shape[1], len(ours.weight)).double())
        with torch.no_grad():
            linear.bias.copy_(ours.bias)
            linear.parametrizations.weight.original0.copy_(ours.weight_g)
            linear.parametrizations.weight.original1.copy_(ours.weight_v)
        modules += [linear, Sine()]
    return nn.Sequential(*modules[:-1])


def test_the_kernel_and_its_gradients_are_those_of_torchs_weight_norm():
    op = layer().double()
    with torch.no_grad():
        for ours in op.kernel_net.layers:
            ours.weight_g.mul_(torch.rand_like(ours.weight_g) + 0.5)
    net = authors_net(op)
    kernel = net(torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]).t().view(8, 4, 50)
    assert relative(op.kernel(), kernel) < 1e-10
    direction = torch.randn_like(kernel)
    (op.kernel() * direction).sum().backward()
    (kernel * direction).sum().backward()
    for ours, linear in zip(op.kernel_net.layers, net[::2]):
        of_g, of_v = (getattr(linear.parametrizations.weight, f'original{i}').grad for i in (0, 1))
        for mine, theirs in ((ours.weight_g, of_g), (ours.weight_v, of_v), (ours.bias, linear.bias.grad)):
            # That of v is 0 where there is one input.
            torch.testing.assert_close(mine.grad, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('lazy', [False, True])
def test_official_starts_as_the_authors_code_does(lazy):
    torch.manual_seed(0)
    op = CKConv1d(30, 30, None if lazy else 784, **OFFICIAL)
    if lazy:
        op(torch.randn(1, 30, 784))
    assert not op.bias.any()
    for ours, inputs in zip(op.kernel_net.layers, (1, 32, 32)):
        assert relative(ours.weight, ours.weight_v) < 1e-6
        bound = 1 / math.sqrt(inputs)
        assert 0.8 * bound < ours.weight_v.abs().max() <= bound
        assert ours.weight_v.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.25)
        assert 0.8 < ours.bias.abs().max() <= 1
    # Their kernels are far larger than those of variance 1 / fan_in.
    assert op.kernel().var() * 30 * 784 > 100


def test_a_normalised_start_has_the_same_kernel_as_a_plain_one():
    plain, normalised = layer(weight_norm=False, init='fan_in'), layer(init='fan_in')
    assert relative(normalised.kernel(), plain.kernel()) < 1e-5


@pytest.mark.parametrize('separable', [False, True])
def test_folds(separable):
    op, x = CKConv2d(4, 8, 5, padding=2, separable=separable, **OFFICIAL), torch.randn(1, 4, 9, 9)
    model = nn.Sequential(op)
    expected = model(x)
    assert switch_to_deploy(model).replaced == ['0']
    assert relative(model(x), expected) < 1e-5 and all(p.requires_grad for p in model.parameters())


def test_either_form_loads_the_other():
    normalised, plain = layer(), layer(weight_norm=False)
    with torch.no_grad():
        for ours in normalised.kernel_net.layers:
            ours.weight_g.mul_(1.7)
    assert {key.rpartition('.')[2] for key in normalised.state_dict()} == {'weight_g', 'weight_v', 'bias'}
    model, state = nn.Sequential(plain), nn.Sequential(normalised).state_dict()
    before = copy.deepcopy(state)
    model.load_state_dict(state)
    assert state.keys() == before.keys() and relative(plain.kernel(), normalised.kernel()) < 1e-5
    other = nn.Sequential(layer())
    other.load_state_dict(model.state_dict())
    assert relative(other[0].kernel(), normalised.kernel()) < 1e-5
    fresh = nn.Sequential(layer())
    fresh.load_state_dict(state)
    assert all(torch.equal(a, state[key]) for key, a in fresh.state_dict().items())


def test_official_needs_sine_layers():
    with pytest.raises(ValueError, match="init='official' is the authors' start of sine layers, got activation='relu'"):
        CKConv1d(4, 8, 9, activation='relu', init='official')


@pytest.mark.parametrize('name', ['smnist', 'pmnist', 'scifar10', 'large_smnist', 'large_pmnist', 'large_scifar10'])
def test_the_configs_of_the_papers_table_train_the_authors_form(name):
    config = pytest.importorskip('mmengine.config').Config
    backbone = config.fromfile(f'configs/sequences/ckcnn_{name}.py').model.backbone
    assert backbone.weight_norm and backbone.init == 'official'
