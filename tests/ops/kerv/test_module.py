"""KervConv1d, 2d, 3d against the naive oracle in float64, the paper's gradients, and the shared contract."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmkerv.ops import FoldError, KervConv, KervConv1d, KervConv2d, KervConv3d, kerv1d, kerv2d, kerv3d
from mmkerv.ops.kerv.l1.chunked import chunked_distance, chunked_gradients
from tests.ops.contract import GEOMETRIES, TOLERANCE, OperatorContract, relative
from tests.ops.kerv.kerv_oracle import kerv_loop

KERNELS = {
    'linear': {},
    'polynomial': {'degree': 3, 'balance': 0.7},
    'sigmoid': {},
    'gaussian': {'gamma': 0.03},
    'l1': {},
    'l2': {},
    'manhattan': {},
    'euclidean': {},
    'laplacian': {'gamma': 0.2},
    'cauchy': {'gamma': 0.1},
    'rational quadratic': {'gamma': 0.1, 'alpha': 1.7},
    'arc-cosine 0': {'order': 0},
    'arc-cosine 1': {'order': 1},
    'arc-cosine 2': {'order': 2},
}
LEARNED = {'polynomial': ['balance'], 'rational quadratic': ['gamma', 'alpha']} | {
    name: ['gamma'] for name in ('gaussian', 'laplacian', 'cauchy')
}
LAYERS = {1: KervConv1d, 2: KervConv2d, 3: KervConv3d}
FUNCTIONS = {1: kerv1d, 2: kerv2d, 3: kerv3d}
GEOMETRY = ('stride', 'padding', 'dilation', 'groups', 'padding_mode')
# Geometries for 1-D, 2-D and 3-D layers; those of the contract are 2-D only.
ANY_AXES = {
    'stride': {'stride': 2, 'padding': 1},
    'even_same': {'padding': 'same', 'kernel_size': 2},
    'even_same_reflect': {'padding': 'same', 'kernel_size': 4, 'padding_mode': 'reflect'},
    'valid_dilated': {'padding': 'valid', 'dilation': 2, 'kernel_size': 2},
    'groups': {'groups': 2, 'padding': 1, 'bias': False},
    'depthwise_dilated': {'groups': 4, 'padding': 2, 'dilation': 2},
    'replicate': {'padding': 1, 'padding_mode': 'replicate', 'stride': 2},
    'circular': {'padding': 2, 'padding_mode': 'circular', 'groups': 2},
    '1': {'kernel_size': 1},
}


def kernel_of(case: str) -> str:
    return 'arc-cosine' if case.startswith('arc-cosine') else case


def make(case: str, dims: int = 2, **settings) -> nn.Module:
    """Build a layer whose filters are large enough to change the response of every kernel."""
    torch.manual_seed(0)
    options = {'kernel_size': 3, 'kernel': kernel_of(case), **KERNELS[case], **settings}
    op = LAYERS[dims](4, 8, **options)
    with torch.no_grad():
        op.weight.normal_(std=0.3)
    return op


def oracle(op: nn.Module, x: torch.Tensor, names=('degree', 'balance', 'gamma', 'alpha', 'order')) -> torch.Tensor:
    values = {name: getattr(op, name) for name in names if getattr(op, name, None) is not None}
    geometry = {name: getattr(op, name) for name in GEOMETRY}
    return torch.from_numpy(kerv_loop(x, op.weight, op.bias, kernel=op.kernel_name, **geometry, **values))


def check(op: nn.Module, x: torch.Tensor) -> None:
    """Compare the layer and its function with the oracle in float32 and float64, on values exact in both."""
    expected = oracle(op, x)
    assert float(expected.std()) > 1e-3, 'the responses say something'
    for dtype in (torch.float32, torch.float64):
        op, x = op.to(dtype), x.to(dtype)
        y = op(x)
        assert y.dtype == dtype and y.shape == expected.shape
        assert relative(y, expected) < TOLERANCE[dtype]
        values = {name: getattr(op, name) for name in op._initial}
        geometry = {name: getattr(op, name) for name in GEOMETRY}
        function = FUNCTIONS[op.dims]
        assert torch.equal(function(x, op.weight, op.bias, kernel=op.kernel_name, **geometry, **values), y)


class KervContract(OperatorContract):
    operator = KervConv2d

    def expected(self, op, x):
        return oracle(op, x)


class TestPolynomial(KervContract):
    options = {'degree': 3, 'balance': 0.7}


class TestGaussian(KervContract):
    """Gaussian kernel with a learned gamma per filter."""

    options = {'kernel': 'gaussian', 'gamma': 0.05, 'learnable': True, 'per_channel': True}


class TestL2(KervContract):
    options = {'kernel': 'l2'}


class TestL1(KervContract):
    # Small enough for several chunks.
    options = {'kernel': 'l1', 'chunk_mib': 1e-2}


class TestRationalQuadratic(KervContract):
    """Kernel with two learned hyperparameters, so the contract on incomplete state dicts applies."""

    options = {'kernel': 'rational quadratic', 'gamma': 0.05, 'alpha': 1.5, 'learnable': True}


class TestArcCosine(KervContract):
    options = {'kernel': 'arc-cosine'}


@pytest.mark.parametrize('case', KERNELS)
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_every_kernel_agrees_with_the_oracle_in_every_geometry(case, geometry):
    check(make(case, **GEOMETRIES[geometry]), torch.randn(1, 4, 7, 6))


@pytest.mark.parametrize('case', KERNELS)
@pytest.mark.parametrize('geometry', ANY_AXES)
@pytest.mark.parametrize('dims', LAYERS)
def test_every_kernel_agrees_with_the_oracle_in_1d_2d_and_3d(case, geometry, dims):
    check(make(case, dims, **ANY_AXES[geometry]), torch.randn(1, 4, *{1: (9,), 2: (5, 6), 3: (3, 4, 4)}[dims]))


def test_kernel_size_stride_padding_and_dilation_can_differ_by_axis():
    settings = {'kernel_size': (2, 3, 1), 'stride': (1, 2, 1), 'padding': (1, 0, 2), 'dilation': (2, 1, 3)}
    for case in ('polynomial', 'gaussian', 'l1', 'arc-cosine 1'):
        check(make(case, 3, **settings), torch.randn(1, 4, 3, 5, 2))


@pytest.mark.parametrize('degree', range(1, 8))
@pytest.mark.parametrize('balance', [0.0, 1.0])
def test_every_degree_agrees_with_the_oracle(degree, balance):
    check(make('polynomial', degree=degree, balance=balance, padding=1), torch.randn(2, 4, 4, 5))


@pytest.mark.parametrize('dims', LAYERS)
def test_auto_gamma_is_one_over_fan_in(dims):
    op = make('gaussian', dims, gamma='auto', groups=2)
    x = torch.randn(1, 4, *(5, 4, 3)[:dims])
    assert op.gamma == 1 / (2 * 3**dims)
    assert torch.equal(FUNCTIONS[dims](x, op.weight, op.bias, groups=2, kernel='gaussian'), op(x))
    check(op, x)


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_linear_kernel_equals_conv2d_bit_for_bit(geometry):
    torch.manual_seed(3)
    op = KervConv2d(4, 8, 3, kernel='linear', **GEOMETRIES[geometry])
    torch.manual_seed(3)
    conv, x = nn.Conv2d(4, 8, 3, **GEOMETRIES[geometry]), torch.randn(2, 4, 8, 7)
    assert torch.equal(op(x), conv(x))
    with torch.autocast('cpu', torch.bfloat16):
        assert op(x).dtype == torch.bfloat16 and torch.equal(op(x), conv(x))


@pytest.mark.parametrize('case', [name for name in KERNELS if name not in ('l1', 'manhattan')])
@pytest.mark.parametrize('settings', [{'padding': 1}, {'stride': 2, 'groups': 2}], ids=str)
def test_gradients_pass_gradcheck(case, settings):
    learned = {'learnable': True, 'per_channel': 'groups' in settings} if case in LEARNED else {}
    gradcheck(make(case, dtype=torch.float64, **settings, **learned), torch.autograd.gradcheck)


@pytest.mark.parametrize('case', ['l1', 'manhattan'])
@pytest.mark.parametrize('dims', LAYERS)
def test_gradients_of_absolute_distances_pass_gradcheck(case, dims):
    gradcheck(make(case, dims, dtype=torch.float64, padding=1, groups=2), torch.autograd.gradcheck)


@pytest.mark.parametrize('case', ['polynomial', 'gaussian', 'l2', 'cauchy', 'sigmoid'])
def test_second_derivatives_pass_gradgradcheck(case):
    settings = {'learnable': case in LEARNED, 'kernel_size': 2}
    gradcheck(make(case, dtype=torch.float64, **settings), torch.autograd.gradgradcheck, (1, 4, 2, 3))


@pytest.mark.parametrize('case', KERNELS)
def test_create_graph_does_not_change_gradients(case):
    op, x = make(case, learnable=case in LEARNED), torch.randn(1, 4, 4, 4, requires_grad=True)
    values = (x, *op.parameters())
    with_graph = torch.autograd.grad(op(x).square().sum(), values, create_graph=True)
    for actual, expected in zip(with_graph, torch.autograd.grad(op(x).square().sum(), values)):
        assert relative(actual, expected) < 1e-6


@pytest.mark.parametrize('degree', [1, 2, 4, 7])
def test_derivatives_of_every_degree_pass_gradcheck(degree):
    op = make('polynomial', dtype=torch.float64, degree=degree, learnable=True)
    gradcheck(op, torch.autograd.gradcheck)
    gradcheck(op, torch.autograd.gradgradcheck, (1, 4, 3, 3))


def gradcheck(op: nn.Module, how, shape: tuple[int, ...] | None = None) -> None:
    names = [name for name, _ in op.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in op.parameters()]
    x = torch.randn(shape or (1, 4, *(5, 4, 3)[: op.dims]), dtype=torch.float64, requires_grad=True)
    assert how(lambda x, *values: torch.func.functional_call(op, dict(zip(names, values)), (x,)), (x, *values))


def one_patch(**settings) -> tuple[nn.Module, torch.Tensor]:
    op = make('gaussian', dtype=torch.float64, bias=False, learnable=True, **settings)
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    return op, x


def test_gradients_agree_with_equation_13_of_the_paper():
    op, x = one_patch()
    k = op(x)[0, :, 0, 0]
    k.sum().backward()
    difference = (x - op.weight).detach()
    k = k.detach()
    # Equation 13a, the same with opposite sign for x, and equation 13b.
    slope = 2 * 0.03 * difference * k.view(-1, 1, 1, 1)
    assert relative(op.weight.grad, slope) < 1e-12
    assert relative(x.grad, -slope.sum(0, keepdim=True)) < 1e-12
    assert relative(op.gamma.grad, -(difference.square().sum((1, 2, 3)) * k).sum()) < 1e-12


def test_gradient_of_a_gamma_per_filter_agrees_with_equation_13b():
    op, x = one_patch(per_channel=True)
    k = op(x)[0, :, 0, 0]
    k.sum().backward()
    assert relative(op.gamma.grad, -(x - op.weight).square().sum((1, 2, 3)) * k) < 1e-12


def test_gradient_of_the_balance_agrees_with_its_formula():
    op, x = make('polynomial', dtype=torch.float64, learnable=True), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    op(x).sum().backward()
    s = torch.nn.functional.conv2d(x, op.weight)
    assert relative(op.balance.grad, 3 * (s + 0.7).square().sum()) < 1e-12


@pytest.mark.parametrize('case', ['l1', 'l2', 'manhattan', 'euclidean', 'laplacian', 'gaussian', 'rational quadratic'])
def test_gradient_is_zero_where_a_patch_equals_the_filter(case):
    op = make(case, dtype=torch.float64)
    with torch.no_grad():
        # Values of few bits make the squared distance exactly 0.
        op.weight.mul_(8).round_().div_(4)
        op.weight.copy_(op.weight[:1].expand_as(op.weight))
    x = op.weight.detach()[:1].clone().requires_grad_()
    y = op(x) - op.bias.view(-1, 1, 1)
    at_zero = 1.0 if case in ('laplacian', 'gaussian', 'rational quadratic') else 0.0
    assert torch.allclose(y.detach().flatten(), torch.full((8,), at_zero, dtype=y.dtype), rtol=0, atol=1e-14)
    y.sum().backward()
    assert x.grad.abs().max() < 1e-15 and op.weight.grad.abs().max() < 1e-15


@pytest.mark.parametrize('case', KERNELS)
def test_layers_are_translation_equivariant(case):
    op, x = make(case, padding=1), torch.randn(1, 4, 12, 12)
    shifted = op(torch.roll(x, (2, 3), (2, 3)))
    assert relative(shifted[..., 4:-1, 5:-1], torch.roll(op(x), (2, 3), (2, 3))[..., 4:-1, 5:-1]) < 1e-5


@pytest.mark.parametrize('dims', LAYERS)
@pytest.mark.parametrize('case', ['polynomial', 'gaussian', 'l1', 'arc-cosine 1'])
@pytest.mark.parametrize('channels', [1, 4])
def test_an_input_without_a_batch_axis_gives_the_same_result(case, dims, channels):
    op = LAYERS[dims](channels, 8, 3, padding=1, kernel=kernel_of(case))
    x = torch.randn(channels, *(5, 4, 4)[:dims])
    assert relative(op(x), op(x[None])[0]) < 1e-6


class Largest(TorchDispatchMode):
    """Record the number of elements of the largest tensor that an operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize('case', KERNELS)
def test_no_tensor_of_patches_for_every_filter_is_allocated(case):
    op = make(case, groups=2, padding=1)
    x = torch.randn(2, 4, 10, 10, requires_grad=True)
    with Largest() as mode:
        y = op(x)
        y.sum().backward()
    assert mode.largest <= max(x.numel(), y.numel(), op.weight.numel())


def test_absolute_distances_stay_within_the_memory_bound():
    """Check the tensors inside the operator, which the dispatch mode of the test above cannot see."""
    x, weight, arguments = torch.randn(2, 4, 12, 12), torch.randn(16, 4, 3, 3), ((1, 1), (1, 1), 1, 0.02)
    limit = max(0.02 * 2**20 / 4, 2 * 16 * 10 * 10)
    with Largest() as mode:
        y = chunked_distance(x, weight, *arguments)
        chunked_gradients(y, x, weight, *arguments, True, True)
    # Views of the windows share x's memory; (N, O, K, L) would be 115200.
    assert y.numel() <= limit and mode.largest <= max(limit, 2 * 4 * 9 * 10 * 10)


COMPILED = ['linear', 'sigmoid', 'gaussian', 'l1', 'l2', 'laplacian', 'cauchy', 'arc-cosine 2']


@pytest.mark.parametrize(
    ('case', 'settings'), [*((name, {}) for name in COMPILED), *(('polynomial', {'degree': d}) for d in (1, 2, 3, 6))]
)
def test_compiled_layers_give_the_gradients_of_eager_layers(case, settings):
    op = make(case, padding=1, learnable=case in LEARNED, **settings)
    x = torch.randn(2, 4, 6, 5, requires_grad=True)
    torch._dynamo.reset()
    y = torch.compile(op, fullgraph=True, backend='aot_eager')(x)
    assert relative(y, op(x)) < TOLERANCE[torch.float32]
    values = (x, *op.parameters())
    compiled = torch.autograd.grad(y.square().sum(), values)
    for actual, expected in zip(compiled, torch.autograd.grad(op(x).square().sum(), values)):
        assert relative(actual, expected) < 1e-5


def test_a_1x1_convolution_becomes_a_kervolution():
    op = KervConv(4, 8, 1)
    assert KervConv is KervConv2d and type(op) is KervConv2d
    check(op, torch.randn(2, 4, 3, 3))


@pytest.mark.parametrize('order', [0, 1, 2])
def test_arc_cosine_of_a_zero_patch_has_zero_gradient(order):
    op = KervConv2d(2, 3, 3, kernel='arc-cosine', order=order, bias=False)
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    y = op(x)
    y.sum().backward()
    assert torch.allclose(y, torch.full_like(y, 0.5 if order == 0 else 0.0))
    assert not x.grad.any() and not op.weight.grad.any()


@pytest.mark.parametrize('settings', [{'kernel': 'linear'}, {'degree': 1, 'balance': 0.5, 'learnable': True}], ids=str)
def test_the_kernel_of_a_linear_kervolution_equals_that_of_its_folded_layer(settings):
    op = KervConv2d(4, 8, 3, groups=2, **settings)
    assert torch.equal(op.kernel(), op.to_conv2d().weight)


@pytest.mark.parametrize('settings', [{}, {'kernel': 'gaussian'}, {'degree': 2}], ids=str)
def test_a_nonlinear_kervolution_has_no_kernel(settings):
    op = KervConv2d(4, 8, 3, **settings)
    with pytest.raises(FoldError, match=f"kernel='{op.kernel_name}' is not linear in its input.*deploy it as it is"):
        op.kernel()


@pytest.mark.parametrize('kernel', ['polynomial', 'gaussian', 'l1'])
@pytest.mark.parametrize('size, groups', [(1, 1), (1, 8), (3, 8), (3, 1)])
def test_channels_last_stays_where_the_weight_does_not_tell(kernel, size, groups):
    op, x = KervConv2d(8, 8, size, kernel=kernel, groups=groups), torch.randn(2, 8, 6, 6)
    assert op(x).is_contiguous()
    assert op(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
