"""CKConv2d by Fourier transforms: same values, memory formats and dtypes as the direct method."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmkerv.ops import CKConv1d, CKConv2d
from mmkerv.ops.core.fft.convolution import fast_length, fft_convolution
from tests.ops.ckconv.ck_operators import random_2d, response_2d
from tests.ops.contract import relative


@pytest.mark.parametrize('method', ['direct', 'fft', 'auto'])
@pytest.mark.parametrize('settings', [{}, {'separable': True}, {'groups': 2}], ids=str)
def test_a_kernel_can_be_as_large_as_the_feature_map_or_larger(method, settings):
    op = random_2d(4, 6, (9, 7), padding=(4, 3), method=method, **settings)
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    y = op(x)
    assert y.shape == (2, 6, 9, 7) and relative(y, response_2d(op, x)) < 1e-11
    op.kernel_size = (17, 13)
    op.padding = (8, 6)
    assert relative(op(x), response_2d(op, x)) < 1e-11


METHOD_SETTINGS = [
    {},
    {'groups': 2},
    {'in_channels': 6, 'out_channels': 6, 'groups': 6},
    {'in_channels': 3, 'out_channels': 9, 'groups': 3},
    {'separable': True, 'groups': 2},
    {'dilation': (1, 2), 'padding': (3, 6)},
    {'dilation': 3, 'kernel_size': 3},
    {'padding': 'same', 'dilation': 2, 'kernel_size': 3},
    {'padding': 'valid', 'bias': False},
    {'padding': 3, 'padding_mode': 'circular'},
    {'padding': (3, 2), 'padding_mode': 'reflect'},
    {'padding': 8, 'padding_mode': 'replicate'},
    {'kernel_size': (11, 1), 'padding': (7, 0)},
    {'kernel_size': 1},
]


@pytest.mark.parametrize('settings', METHOD_SETTINGS, ids=str)
@pytest.mark.parametrize('size', [(12, 13), (11, 10)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_fft_and_auto_agree_with_direct(settings, size, dtype):
    settings = {'in_channels': 4, 'out_channels': 6, 'kernel_size': 5, 'hidden': 8, 'dtype': dtype, **settings}
    results = []
    for method in ('direct', 'fft', 'auto'):
        torch.manual_seed(0)
        op = CKConv2d(**settings, method=method)
        x = torch.randn(2, settings['in_channels'], *size, dtype=dtype, requires_grad=True)
        y = op(x)
        (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum().backward()
        results.append([y, x.grad, *(p.grad for p in op.parameters())])
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-11}[dtype]
    for result in results[1:]:
        for a, b in zip(result, results[0]):
            # A 1x1 kernel has the single position 0, where the gradient of the first layer is 0.
            assert bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize('stride', [2, (1, 3)])
def test_auto_with_a_stride_agrees_with_the_folded_convolution(stride):
    torch.manual_seed(0)
    op = CKConv2d(4, 6, 9, stride=stride, padding=4, method='auto')
    x = torch.randn(2, 4, 16, 15)
    assert relative(op(x), op.to_conv2d()(x)) < 1e-5


@pytest.mark.parametrize(
    ('memory_format', 'bias', 'separable'),
    [
        (torch.contiguous_format, True, False),
        (torch.contiguous_format, False, True),
        (torch.contiguous_format, False, False),
        (torch.channels_last, True, True),
        (torch.channels_last, True, False),
        (torch.channels_last, False, False),
    ],
    ids=str,
)
def test_fft_preserves_the_memory_format(memory_format, bias, separable):
    """Compiled operators of mmcv assume that their input is contiguous without checking it."""
    op = CKConv2d(4, 8, 3, padding=1, bias=bias, separable=separable, method='fft').to(memory_format=memory_format)
    assert op(torch.randn(2, 4, 8, 7).to(memory_format=memory_format)).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('method', ['direct', 'fft'])
def test_autocast_does_not_change_float64(method):
    """Autocast treats the convolutions of torch in the same way."""
    op, x = random_2d(4, 6, 3, method=method), torch.randn(1, 4, 6, 6, dtype=torch.float64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = op(x)
    assert y.dtype == torch.float64 and relative(y, response_2d(op, x)) < 1e-11


@pytest.mark.parametrize('method', ['direct', 'fft'])
def test_an_image_without_a_batch_axis_is_accepted(method):
    op, x = random_2d(4, 6, 3, padding=1, method=method), torch.randn(4, 6, 5, dtype=torch.float64)
    assert relative(op(x), response_2d(op, x[None])[0]) < 1e-11


def test_fft_rejects_inputs_that_do_not_fit_the_kernel():
    with pytest.raises(ValueError, match='at least as large as the dilated kernel'):
        CKConv2d(4, 8, 9, method='fft')(torch.randn(1, 4, 8, 12))
    with pytest.raises(ValueError, match='x has 3 channels, the kernel takes 4'):
        CKConv2d(4, 8, 3, method='fft')(torch.randn(1, 3, 8, 8))


class Largest(TorchDispatchMode):
    """Record the number of elements of the largest tensor that an operation returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (list, tuple)) else [result]
        self.numel = max([self.numel, *(t.numel() for t in tensors if isinstance(t, torch.Tensor))])
        return result


def test_fft_allocates_no_tensor_of_all_channel_pairs_of_each_image():
    batch, channels, size = 16, 10, 32
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    kernel = torch.randn(channels, channels, size, size, requires_grad=True)
    with Largest() as mode:
        fft_convolution(x, kernel, None, [(16, 16)] * 2, (1, 1), 1).sum().backward()
    spectrum = 64 * 33
    # The spectrum of the kernel is always allocated.
    assert channels**2 * spectrum <= mode.numel < batch * channels**2 * spectrum / 2


def test_transform_lengths_have_no_large_prime_factors():
    def smooth(n):
        for p in (2, 3, 5, 7):
            while n % p == 0:
                n //= p
        return n == 1

    even = [n for n in range(2, 3000, 2) if smooth(n)]
    for n in range(2, 2400):
        assert fast_length(n) == next(e for e in even if e >= n)
    assert fast_length(1) == 1


# The first size is cheaper directly, the second by Fourier transforms, except for the image.
@pytest.mark.parametrize('side', [9, 785])
@pytest.mark.parametrize('kind', ['image', 'separable', 'causal', 'centred'])
def test_the_choice_of_the_form_compiles_without_graph_breaks(kind, side):
    if kind in ('image', 'separable'):
        op, x = CKConv2d(4, 8, 5, padding=2, hidden=4, separable=kind == 'separable'), torch.randn(2, 4, 9, side)
    else:
        centred = {'padding': side // 2, 'causal': False} if kind == 'centred' else {}
        op, x = CKConv1d(4, 8, side, hidden=4, **centred), torch.randn(2, 4, side)
    torch._dynamo.reset()
    # torch 2.1 traces neither logarithms nor layouts of sizes that it makes symbolic when they change.
    dynamic = None if torch.__version__ >= (2, 6) else False
    compiled = torch.compile(op, fullgraph=True, backend='aot_eager', dynamic=dynamic)
    y = compiled(x)
    y.square().sum().backward()
    gradients = [p.grad.clone() for p in op.parameters()]
    op.zero_grad()
    expected = op(x)
    expected.square().sum().backward()
    assert relative(y, expected) < 1e-5
    assert all(relative(g, p.grad) < 1e-3 for g, p in zip(gradients, op.parameters()))
    assert relative(compiled(x[..., 1:]), op(x[..., 1:])) < 1e-5
