"""Types of computation: squared distances, powers, half precision."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from mmkerv.ops import KervConv2d
from mmkerv.ops.core.precision import autocast_type, full_precision
from mmkerv.ops.kerv.exact_convolution import exact_convolution, without_tf32
from tests.ops.catalogue import VARIANTS, layer, sample
from tests.ops.contract import relative
from tests.ops.kerv.kerv_oracle import kerv_loop

HALVES = [torch.bfloat16, torch.float16]
NONLINEAR = {
    'polynomial': {},
    'sigmoid': {},
    'gaussian': {},
    'l1': {},
    'l2': {},
    'manhattan': {},
    'euclidean': {},
    'laplacian': {'gamma': 0.01},
    'cauchy': {},
    'rational quadratic': {},
    'arc-cosine': {},
}
RADIAL = ['gaussian', 'l2', 'euclidean', 'laplacian', 'cauchy', 'rational quadratic']


def autocast(dtype: torch.dtype) -> torch.autocast:
    if dtype == torch.float16 and torch.__version__ < '2.3':
        pytest.skip('torch before 2.3 has no CPU autocast in float16')
    return torch.autocast('cpu', dtype=dtype)


def results(op: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    op.zero_grad()
    x = x.clone().requires_grad_()
    y = op(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in op.parameters() if p.grad is not None)]


@pytest.mark.parametrize('label', VARIANTS)
def test_autocast_leaves_float64_alone(label):
    op = layer(label).double()
    x = sample(op).double()
    expected = results(op, x)
    with torch.autocast('cpu', torch.bfloat16):
        assert F.conv2d(*torch.ones(2, 1, 1, 1, 1).double()).dtype == torch.float64
        actual = results(op, x)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float64 and relative(one, other) < 1e-12


def wide_layer(kernel: str, mean: float = 0.0, **settings) -> tuple[KervConv2d, torch.Tensor]:
    """256 channels; the first filter is a patch of the input, the others are of its size."""
    torch.manual_seed(0)
    op = KervConv2d(256, 4, 3, kernel=kernel, bias=False, **settings)
    x = torch.randn(1, 256, 4, 5) + mean
    with torch.no_grad():
        op.weight.normal_().add_(mean)
        op.weight[0] = x[0, :, 1:4, 1:4]
    return op, x


@pytest.mark.parametrize('dtype', [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize('mean', [0.0, 3.0])
def test_squared_distances_at_256_channels(dtype, mean):
    op, x = wide_layer('euclidean', mean)
    expected = torch.from_numpy(kerv_loop(x, op.weight, kernel='euclidean'))
    assert expected[0, 0, 1, 1] == 0 and expected[0, 1:].max() < -1000
    with autocast(dtype) if dtype != torch.float32 else torch.enable_grad():
        d2 = -op(x)
    assert d2.dtype == torch.float32 and (d2 >= 0).all()
    error = (d2.double() + expected).abs()
    apart = expected < 0
    assert (error[apart] / -expected[apart]).max() < 1e-5
    # Where the patch is the filter, what is left is the rounding of the sums: 2304 (mean^2 + 1) times float32's. Others
    # are held to their own size above: from processor to processor their sums are formed in another order.
    assert error[~apart].max() < 1e-6 * 2304 * (mean**2 + 1)


@pytest.mark.parametrize('dtype', [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize('filters', [32, 96])
def test_rounding_never_makes_a_squared_distance_negative(dtype, filters):
    # As many filters as patches, each equal to one; both the input and the weight are the larger one once.
    torch.manual_seed(0)
    x = torch.randn(64, 256, 3, 3)
    op = KervConv2d(256, filters, 3, kernel='euclidean', bias=False)
    with torch.no_grad():
        op.weight.copy_(torch.cat([x, x])[:filters])
    with autocast(dtype) if dtype != torch.float32 else torch.enable_grad():
        d2 = -op(x).flatten(1)
    same = torch.cat([d2.diagonal(), d2[:, 64:].diagonal()])
    assert same.max() < 0.01 and (d2 >= 0).all()
    assert (same == 0).any() and (same > 0).any(), 'rounding goes both ways'


@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('kernel', [*RADIAL, 'l1', 'manhattan'])
def test_distances_under_autocast_are_those_of_float64(kernel, dtype):
    op, x = wide_layer(kernel, **NONLINEAR[kernel])
    values = {'gamma': op.gamma, 'alpha': 1.0} if op.gamma else {}
    expected = torch.from_numpy(kerv_loop(x, op.weight, kernel=kernel, **values))
    with autocast(dtype):
        y = op(x)
    assert torch.isfinite(y).all() and y.dtype == torch.float32
    assert ((y.double() - expected).abs() <= 1e-3 * expected.abs().max()).all()
    y.sum().backward()
    assert torch.isfinite(op.weight.grad).all()


@pytest.mark.parametrize('dtype', HALVES, ids=str)
def test_distance_of_a_patch_from_itself_is_not_nan(dtype):
    op, x = wide_layer('l2')
    x.requires_grad_()
    with autocast(dtype):
        y = op(x)
    # The root of float32's rounding of 2304; the norm of the patch is 48.
    assert 0 <= y[0, 0, 1, 1] < 0.05
    y[0, 0, 1, 1].backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(op.weight.grad).all()


@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('s', [50.0, -50.0, 1e3, 1e5, -1e5])
@pytest.mark.parametrize('degree', [2, 3])
@pytest.mark.parametrize('learnable', [False, True])
def test_powers_stay_finite_where_float32_is(dtype, s, degree, learnable):
    op = KervConv2d(1, 1, 2, bias=False, degree=degree, learnable=learnable)
    x = torch.full((1, 1, 2, 2), 250.0, requires_grad=True)
    with torch.no_grad():
        op.weight.fill_(s / 1000)
    with autocast(dtype):
        y = op(x)
    assert y.dtype == torch.float32
    # bfloat16 holds 8 bits of s.
    assert y.item() == pytest.approx((s + 1) ** degree, rel=degree * (5e-3 if dtype == torch.bfloat16 else 1e-6))
    y.backward()
    assert all(torch.isfinite(p.grad).all() for p in (x, *op.parameters()))
    assert x.grad.mean().item() == pytest.approx(degree * (s + 1) ** (degree - 1) * s / 1000, rel=degree * 1e-2)


@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('kernel', NONLINEAR)
@pytest.mark.parametrize('cast_input', [False, True])
def test_results_under_autocast_are_float32(kernel, dtype, cast_input):
    op, x = KervConv2d(4, 8, 3, kernel=kernel), torch.randn(1, 4, 5, 5)
    with autocast(dtype):
        # Behind another convolution the input is half already.
        y = op(x.to(dtype) if cast_input else x)
    assert y.dtype == torch.float32
    assert relative(y, op(x.to(dtype).float() if cast_input else x)) < 3e-2


@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('kernel', ['linear', *NONLINEAR])
def test_half_parameters_keep_their_type(kernel, dtype):
    torch.manual_seed(0)
    op = KervConv2d(4, 8, 3, kernel=kernel, dtype=dtype, learnable=kernel in ('polynomial', 'gaussian'))
    x = torch.randn(1, 4, 5, 5, dtype=dtype)
    if kernel == 'linear' and dtype == torch.float16 and torch.__version__ < '2.3':
        pytest.skip('torch before 2.3 has no float16 convolution on CPUs')
    y = op(x)
    assert y.dtype == dtype
    assert relative(y, op.float()(x.float())) < 2e-2
    y.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in op.parameters())


@pytest.mark.parametrize('dtype', HALVES, ids=str)
def test_autocast_type(dtype):
    cpu = torch.device('cpu')
    assert autocast_type(cpu) is None and autocast_type(torch.device('meta')) is None
    with autocast(dtype):
        assert autocast_type(cpu) == dtype
        with full_precision(cpu):
            assert autocast_type(cpu) is None
            assert F.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.float32
        assert autocast_type(cpu) == dtype


@pytest.mark.parametrize('dims', [1, 2, 3])
def test_exact_convolution_ignores_autocast(dims):
    torch.manual_seed(0)
    x, w, b = torch.randn(1, 4, *(6, 5, 4)[:dims]), torch.randn(6, 2, *(3,) * dims), torch.randn(6)
    settings = {'stride': (2,) * dims, 'padding': (1,) * dims, 'dilation': (1,) * dims, 'groups': 2}
    expected = (F.conv1d, F.conv2d, F.conv3d)[dims - 1](x, w, b, **settings)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(exact_convolution(x, w, b, **settings), expected)
        assert torch.equal(exact_convolution(x, w, b, (2,), (1,), (1,), 2), expected), 'one number for all axes'


@pytest.mark.parametrize('bias', [True, False])
def test_the_form_without_tf32_and_its_gradients(bias):
    """It runs on CUDA alone, but is right everywhere."""
    torch.manual_seed(0)
    x, w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((1, 4, 5, 4), (4, 2, 3, 2), (4,)))
    geometry, b = ([2, 1], [1, 0], [1, 2], 2), b if bias else None
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark
    expected = F.conv2d(x, w, b, *geometry)
    assert relative(without_tf32(x, w, b, *geometry), expected) < 1e-14
    inputs = [t for t in (x, w, b) if t is not None]
    actual = torch.autograd.grad(without_tf32(x, w, b, *geometry).square().sum(), inputs)
    for a, e in zip(actual, torch.autograd.grad(expected.square().sum(), inputs)):
        assert relative(a, e) < 1e-13
    only_weight = torch.autograd.grad(without_tf32(x.detach(), w, b, *geometry).square().sum(), w)[0]
    assert relative(only_weight, actual[1]) < 1e-13
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)


PRECISIONS = ['torch.backends', 'torch.backends.cudnn', 'torch.backends.cudnn.conv']


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, 'conv'), reason='torch before 2.9 has one name for the precision')
@pytest.mark.parametrize('place', PRECISIONS)
@pytest.mark.parametrize('precision', ['ieee', 'tf32'])
def test_the_form_without_tf32_under_the_new_names(place, precision):
    """In a process of its own: what is set under both names cannot be set back."""
    program = f"""
import torch
from mmkerv.ops.kerv import exact_convolution as precision
inside = []
convolve = precision.CONVOLUTIONS[2]
precision.CONVOLUTIONS[2] = lambda *a: (inside.append(torch.backends.cudnn.conv.fp32_precision), convolve(*a))[1]
{place}.fp32_precision = {precision!r}
before = torch.backends.cudnn.conv.fp32_precision
x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
precision._convolution(x, w, None, [1, 1], [0, 0], [1, 1], 1)
print(inside == ['ieee'], torch.backends.cudnn.conv.fp32_precision == before, {place}.fp32_precision == {precision!r})
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.stdout == 'True True True\n', done.stderr


@pytest.mark.gpu
def test_no_tf32_on_cuda():
    op, x = wide_layer('euclidean')
    expected = torch.from_numpy(kerv_loop(x, op.weight, kernel='euclidean'))
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast('cuda', torch.bfloat16):
            y = op.cuda()(x.cuda()).cpu()
        y.sum()
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    assert (y <= 0).all() and relative(y, expected) < 1e-5
