"""Every operator under torch.func: per-sample gradients, ensembles, forward mode, second derivatives."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from mmkerv.ops import CoCConv2d, KervConv2d
from tests.ops.catalogue import VARIANTS, layer, sample
from tests.ops.contract import relative

# CoC computes the kernels of layers with few input channels in another way.
OTHERS = {
    'CoC of 16 channels': lambda: CoCConv2d(16, 8, 3, padding=1, super_init='kaiming'),
    'Kerv l1 in groups': lambda: KervConv2d(4, 8, 3, stride=2, padding=1, groups=2, kernel='l1'),
    'Kerv gaussian in groups': lambda: KervConv2d(4, 8, 3, stride=2, padding=1, groups=2, kernel='gaussian'),
}
LABELS = [*VARIANTS, *OTHERS]


def make(label: str) -> tuple[nn.Module, dict[str, torch.Tensor], torch.Tensor]:
    """Return a layer in float64, its parameters, and three samples."""
    torch.manual_seed(0)
    op = (OTHERS[label]() if label in OTHERS else layer(label)).double()
    if any(isinstance(m, nn.BatchNorm2d) for m in op.modules()):
        # A batch norm in training writes its statistics in place, which torch.func refuses.
        op.eval()
    x = sample(op, batch=3).double()
    return op, {name: p.detach() for name, p in op.named_parameters()}, torch.cat([x] * (op.in_channels // 4), 1)


def moved(op: nn.Module, label: str) -> nn.Module:
    other, *_ = make(label)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1 * torch.rand_like(p))
    return other


@pytest.mark.parametrize('label', LABELS)
def test_per_sample_gradients(label):
    op, parameters, x = make(label)

    def loss(parameters, x):
        return functional_call(op, parameters, (x[None],)).square().sum()

    gradients = vmap(grad(loss), (None, 0))(parameters, x)
    for index, one in enumerate(x):
        op.zero_grad()
        op(one[None]).square().sum().backward()
        for name, p in op.named_parameters():
            assert relative(gradients[name][index], p.grad) < 1e-12, name


@pytest.mark.parametrize('label', LABELS)
def test_an_ensemble_computes_what_its_members_compute(label):
    op, _, x = make(label)
    members = [op, moved(op, label)]
    parameters, buffers = stack_module_state(members)
    together = vmap(lambda p, b: functional_call(op, (p, b), (x,)))(parameters, buffers)
    assert relative(together, torch.stack([member(x) for member in members])) < 1e-12
    together.square().sum().backward()
    for index, member in enumerate(members):
        member(x).square().sum().backward()
        for name, p in member.named_parameters():
            assert relative(parameters[name].grad[index], p.grad) < 1e-12, name


@pytest.mark.parametrize('label', LABELS)
def test_forward_mode_is_the_transpose_of_backward(label):
    op, parameters, x = make(label)

    def function(parameters, x):
        return functional_call(op, parameters, (x,))

    changes = {name: torch.randn_like(p) for name, p in parameters.items()}, torch.randn_like(x)
    y, change = jvp(function, (parameters, x), changes)
    assert relative(y, op(x)) < 1e-12
    direction = torch.randn_like(y)
    of_parameters, of_x = vjp(function, parameters, x)[1](direction)
    backward = (of_x * changes[1]).sum() + sum((g * changes[0][name]).sum() for name, g in of_parameters.items())
    assert relative((change * direction).sum(), backward) < 1e-10
    with forward_ad.dual_level():
        dual = function({k: forward_ad.make_dual(p, changes[0][k]) for k, p in parameters.items()}, x)
        only_parameters = forward_ad.unpack_dual(dual).tangent
    of_x_alone = jvp(lambda x: function(parameters, x), (x,), changes[1:])[1]
    assert relative(only_parameters + of_x_alone, change) < 1e-10


@pytest.mark.parametrize('label', LABELS)
def test_jacobians_and_hessians(label):
    op, _, x = make(label)
    x = x[:1, ..., :5] if op.dims == 2 else x[:1]

    def sums(x):
        return op(x).sin().flatten(2).sum(2)

    assert relative(jacrev(sums)(x), jacfwd(sums)(x)) < 1e-12
    leaf, direction = x.clone().requires_grad_(), torch.randn_like(x)
    (first,) = torch.autograd.grad(sums(leaf).sum(), leaf, create_graph=True)
    (product,) = torch.autograd.grad((first * direction).sum(), leaf)
    second = hessian(lambda x: sums(x).sum())(x).reshape(x.numel(), -1)
    assert relative(second @ direction.flatten(), product.flatten()) < 1e-10


def test_a_layer_called_first_inside_a_transform_works_afterwards():
    op, parameters, x = make('CoC of 16 channels')
    vmap(grad(lambda p, x: functional_call(op, p, (x[None],)).sum()), (None, 0))(parameters, x)
    assert torch.equal(op(x), make('CoC of 16 channels')[0](x))


@pytest.mark.parametrize('label', ['CK 1d causal'])
def test_per_sample_gradients_with_times(label):
    op, parameters, x = make(label)
    times = torch.arange(x.shape[-1]) * 0.75

    def loss(parameters, x):
        return functional_call(op, parameters, (x[None],), {'times': times}).square().sum()

    gradients = vmap(grad(loss), (None, 0))(parameters, x)
    op(x, times=times).square().sum().backward()
    for name, p in op.named_parameters():
        assert relative(gradients[name].sum(0), p.grad) < 1e-10, name
