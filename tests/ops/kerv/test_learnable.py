"""Learnable hyperparameters of KervConv: registered, moved, saved, projected, trained."""

import copy
import io

import pytest
import torch
from torch import nn

from mmkerv.ops import KervConv1d, KervConv2d, KervConv3d, switch_to_deploy
from tests.ops.contract import relative

LEARNED = {
    'polynomial': ['balance'],
    'gaussian': ['gamma'],
    'laplacian': ['gamma'],
    'cauchy': ['gamma'],
    'rational quadratic': ['gamma', 'alpha'],
}


def make(kernel: str, **settings) -> KervConv2d:
    torch.manual_seed(0)
    return KervConv2d(3, 4, 3, kernel=kernel, learnable=True, **settings)


def own(op: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in op.named_parameters() if name not in ('weight', 'bias')}


@pytest.mark.parametrize('kernel', LEARNED)
@pytest.mark.parametrize('per_channel', [False, True])
def test_learnable_hyperparameters_are_parameters_that_hold_the_value_itself(kernel, per_channel):
    op = make(kernel, per_channel=per_channel)
    assert list(own(op)) == LEARNED[kernel]
    assert set(op.state_dict()) == {'weight', 'bias', *LEARNED[kernel]}
    start = {'balance': 1.0, 'gamma': 1 / 27, 'alpha': 1.0}
    for name, p in own(op).items():
        assert isinstance(p, nn.Parameter) and p.requires_grad and p.shape == ((4,) if per_channel else (1,))
        assert torch.equal(p.detach(), torch.full_like(p, start[name]))


def test_hyperparameters_are_not_learned_by_default():
    for kernel in LEARNED:
        assert not own(KervConv2d(3, 4, 3, kernel=kernel))


@pytest.mark.parametrize('layer', [KervConv1d, KervConv3d])
def test_hyperparameters_are_learnable_in_1d_and_3d_layers(layer):
    op = layer(2, 4, 3, kernel='gaussian', gamma=0.5, learnable=True, per_channel=True)
    op(torch.randn(2, 2, *(4,) * op.dims)).sum().backward()
    assert op.gamma.tolist() == [0.5] * 4 and op.gamma.grad.ne(0).all()


@pytest.mark.parametrize('kernel', LEARNED)
def test_hyperparameters_follow_the_layer_to_another_dtype_or_device(kernel):
    op = make(kernel)
    assert all(p.dtype == torch.float64 for p in own(op.double()).values())
    assert op(torch.randn(1, 3, 4, 4, dtype=torch.float64)).dtype == torch.float64
    assert all(p.device.type == 'meta' for p in own(copy.deepcopy(op).to('meta')).values())
    assert all(p.dtype == torch.bfloat16 for p in own(make(kernel, dtype=torch.bfloat16)).values())
    assert all(p.device.type == 'meta' for p in own(make(kernel, device='meta')).values())


@pytest.mark.parametrize('kernel', LEARNED)
def test_hyperparameters_are_saved_loaded_and_copied(kernel):
    op, other, x = make(kernel), make(kernel), torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        for p in own(op).values():
            p.fill_(0.25)
    stream = io.BytesIO()
    torch.save(op.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert all(p.item() == 0.25 for p in own(other).values()) and torch.equal(other(x), op(x))
    copied = copy.deepcopy(op)
    with torch.no_grad():
        for p in own(copied).values():
            p.fill_(0.5)
    assert all(p.item() == 0.25 for p in own(op).values()) and torch.equal(copied.weight, op.weight)
    assert relative(copied(x), op(x)) > 1e-3


@pytest.mark.parametrize('kernel', LEARNED)
@pytest.mark.parametrize('per_channel', [False, True])
def test_one_optimizer_step_reduces_the_loss(kernel, per_channel):
    op, x = make(kernel, per_channel=per_channel), torch.randn(4, 3, 6, 6)
    # The target comes from a larger hyperparameter, so the step must increase it.
    with torch.no_grad():
        target_op = copy.deepcopy(op)
        for p in own(target_op).values():
            p.mul_(1.5)
        target = target_op(x)
    before = {name: p.detach().clone() for name, p in own(op).items()}
    loss = (op(x) - target).square().mean()
    loss.backward()
    scale = max(float(p.grad.abs().max()) for p in own(op).values())
    torch.optim.SGD(own(op).values(), lr=1e-3 / scale).step()
    first = LEARNED[kernel][0]
    assert (getattr(op, first) > before[first]).all()
    assert all(not torch.equal(p.detach(), before[name]) for name, p in own(op).items())
    assert (op(x) - target).square().mean() < loss


@pytest.mark.parametrize('kernel', LEARNED)
@pytest.mark.parametrize('grad', [True, False])
def test_hyperparameters_are_projected_into_their_range_before_use(kernel, grad):
    op, x = make(kernel, bias=False), torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        for p in own(op).values():
            p.fill_(-3.0)
    with torch.set_grad_enabled(grad):
        y = op(x)
    floor = {'balance': 0.0, 'gamma': 1e-8, 'alpha': 1e-8}
    assert all(p.item() == pytest.approx(floor[name]) for name, p in own(op).items())
    assert torch.isfinite(y).all()
    if kernel == 'polynomial':
        assert relative(y, nn.functional.conv2d(x, op.weight) ** 3) < 1e-5
    elif kernel in ('gaussian', 'cauchy', 'laplacian'):
        assert relative(y, torch.ones_like(y)) < 1e-5


@pytest.mark.parametrize('kernel', ['polynomial', 'gaussian', 'laplacian', 'cauchy'])
def test_gradient_is_nonzero_at_the_lower_bound(kernel):
    op = make(kernel)
    with torch.no_grad():
        for p in own(op).values():
            p.fill_(-3.0)
    op(torch.randn(2, 3, 5, 5)).sum().backward()
    assert all(p.grad.abs().sum() > 0.1 for p in own(op).values())


@pytest.mark.parametrize('kernel', LEARNED)
@pytest.mark.parametrize('compiled', [False, True])
def test_a_layer_applied_twice_can_be_trained(kernel, compiled):
    """A detection head is applied to every level of its feature pyramid."""
    op, x = make(kernel), torch.randn(2, 3, 5, 5)
    torch._dynamo.reset()
    layer = torch.compile(op, fullgraph=True, backend='aot_eager') if compiled else op
    (layer(x) + layer(x)).sum().backward()
    twice = {name: p.grad.clone() for name, p in op.named_parameters()}
    op.zero_grad()
    op(x).sum().backward()
    assert all(relative(twice[name], 2 * p.grad) < 1e-5 for name, p in op.named_parameters())


@pytest.mark.parametrize('kernel', LEARNED)
def test_a_compiled_layer_uses_the_projected_values(kernel):
    op, x = make(kernel), torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        for p in own(op).values():
            p.fill_(-3.0)
    torch._dynamo.reset()
    y = torch.compile(op, fullgraph=True, backend='aot_eager')(x)
    y.sum().backward()
    compiled = {name: p.grad.clone() for name, p in op.named_parameters()}
    op.zero_grad()
    expected = op(x)
    expected.sum().backward()
    assert relative(y, expected) < 1e-5
    for name, p in op.named_parameters():
        assert torch.allclose(compiled[name], p.grad, rtol=1e-4, atol=1e-5), name


def test_weights_of_a_plain_convolution_load_strictly():
    op, plain = make('gaussian', gamma=0.5), nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        op.gamma.fill_(0.7)
    op.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(op.weight, plain.weight) and op.gamma.item() == pytest.approx(0.7)


def test_reset_restores_the_initial_hyperparameters():
    op = make('polynomial', balance=0.3)
    weight = op.weight.detach().clone()
    with torch.no_grad():
        op.balance.fill_(5.0)
    op.reset_operator_parameters()
    assert op.balance.item() == pytest.approx(0.3) and torch.equal(op.weight, weight)
    op.reset_parameters()
    assert op.balance.item() == pytest.approx(0.3) and not torch.equal(op.weight, weight)


@pytest.mark.parametrize('per_channel', [False, True])
@pytest.mark.parametrize('bias', [False, True])
def test_a_degree_1_polynomial_folds_with_its_learned_balance(per_channel, bias):
    op, x = (
        make('polynomial', degree=1, per_channel=per_channel, bias=bias, stride=2, padding=1),
        torch.randn(1, 3, 6, 6),
    )
    with torch.no_grad():
        op.balance.uniform_(0.5, 2)
    conv = op.to_conv2d()
    assert type(conv) is nn.Conv2d and relative(conv(x), op(x)) < 1e-6
    assert relative(op(x), nn.functional.conv2d(x, op.weight, op.bias, 2, 1) + op.balance.view(-1, 1, 1)) < 1e-6
    op(x).sum().backward()
    assert relative(op.balance.grad, torch.full_like(op.balance, 9 if per_channel else 36)) < 1e-6
    model = nn.Sequential(op)
    assert switch_to_deploy(model).replaced == ['0'] and relative(model(x), op(x)) < 1e-6


def test_repr_shows_the_hyperparameters():
    assert 'balance=1.0, learnable=True, per_channel=True' in repr(make('polynomial', per_channel=True))
    assert repr(make('gaussian')).endswith("kernel='gaussian', gamma=auto, learnable=True)")
    assert repr(KervConv2d(3, 4, 3, kernel='l2')).endswith("kernel='l2')")
    assert repr(KervConv2d(3, 4, 3)).endswith("kernel='polynomial', degree=3, balance=1.0)")


@pytest.mark.parametrize('wrap', [torch.clone, nn.Parameter], ids=['tensor', 'parameter'])
def test_functional_call_projects_the_tensors_it_is_given(wrap):
    op, x = KervConv2d(2, 3, 3, bias=False, kernel='gaussian', learnable=True), torch.randn(1, 2, 5, 5)
    own = op.gamma.item()
    y = torch.func.functional_call(op, {'gamma': wrap(torch.tensor([-1.0]))}, (x,))
    assert op.gamma.item() == own
    with torch.no_grad():
        op.gamma.fill_(-1.0)
    assert torch.equal(y, op(x)) and y.max().item() <= 1
