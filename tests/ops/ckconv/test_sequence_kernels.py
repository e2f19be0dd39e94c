"""CKConv1d with kernels that are parameters by lag: SGConv, multiresolution memory, long convolution."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv1d, set_resolution
from mmkerv.ops.ckconv.sequence_kernels import multiresolution_kernel, scales_kernel
from tests.ops import sequence_oracle
from tests.ops.ckconv.ck_operators import signal
from tests.ops.ckconv.ck_oracle import conv_loop
from tests.ops.contract import relative
from tests.ops.test_dcls import fill

KERNELS = ['sgconv', 'multires', 'long']


def built(kernel: str, *args, **kwargs) -> CKConv1d:
    """A layer in float64, whose long kernel is not almost 0."""
    torch.manual_seed(0)
    kwargs = {'scale_size': 3, **kwargs} if kernel == 'sgconv' else kwargs
    op = CKConv1d(*args, **{'dtype': torch.float64, **kwargs}, kernel=kernel)
    if kernel == 'long':
        nn.init.normal_(op.kernel_net.values)
    return op


def expected_kernel(op: CKConv1d) -> np.ndarray:
    """(C, k) by lag, from the parameters."""
    net, size = op.kernel_net, op.kernel_size[0] if op.causal else op.kernel_size[0] // 2 + 1
    rows = []
    for row in range(op.out_channels * op.in_channels // op.groups):
        if op.sequence.kernel == 'multires':
            impulse = np.eye(1, size)[0]
            parameters = (sequence_oracle.double(p)[row] for p in (net.low, net.high, net.weights))
            rows.append(sequence_oracle.multiresolution(impulse, *parameters))
            continue
        if op.sequence.kernel == 'sgconv':
            scales = [sequence_oracle.double(scale)[row] for scale in net.scales]
            kernel = sequence_oracle.scales_kernel(scales, 2.0)[:size] / float(net.kernel_norm[row])
        else:
            values = sequence_oracle.double(net.values)[row, :size]
            kernel = np.sign(values) * np.maximum(np.abs(values) - op.sequence.squash, 0)
        kernel[0] += float(net.skip[row].detach())
        rows.append(kernel)
    return np.array(rows)


def test_the_published_numbers_of_sgconv():
    scales = [fill((2, 4), 1, 1 + 10 * i) for i in range(3)]
    kernel = scales_kernel(scales, torch.tensor([[2.0]], dtype=torch.float64))
    assert kernel.shape == (2, 16)
    assert abs(float(kernel.sum()) - 5.087774) < 1e-6 and abs(float(kernel.norm()) - 9.846459) < 1e-6
    first = torch.tensor([3.36588, 3.63719, 0.56448, -3.02721, -1.99998, -1.07315], dtype=torch.float64)
    assert (kernel[0, :6] - first).abs().max() < 1e-5


def test_the_published_numbers_of_the_multiresolution_memory():
    kernel = multiresolution_kernel(fill((2, 2), 0.7, 1), fill((2, 2), 0.7, 3), fill((2, 8), 0.7, 5), 40)
    assert abs(float(kernel.sum()) + 1.813400) < 1e-6
    first = torch.tensor([-0.106693, -0.163467, -0.237095, -0.219409, -0.144306], dtype=torch.float64)
    assert (kernel[0, :5] - first).abs().max() < 1e-6
    assert CKConv1d(2, 2, 40, groups=2, kernel='multires').kernel_net.weights.shape == (2, 8)


def test_the_published_default_of_the_long_convolution_kills_it():
    """A threshold of 0.1 with values of 0.002; the layer's own default leaves most of them."""
    dead, op = (CKConv1d(4, 4, 100, groups=4, kernel='long', **settings) for settings in ({'squash': 0.1}, {}))
    assert (dead.kernel()[..., :-1] == 0).all() and (op.kernel()[..., :-1] != 0).float().mean() > 0.5


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('settings', [{'groups': 4}, {'groups': 2}, {}, {'groups': 4, 'kernel_size': 1}], ids=str)
def test_the_kernel_is_that_of_the_equations(kernel, settings):
    op = built(kernel, **{'in_channels': 4, 'out_channels': 8, 'kernel_size': 21, **settings})
    values = op.kernel().detach().flatten(0, 1).flip(-1)
    assert np.abs(values.numpy() - expected_kernel(op)).max() < 1e-12


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('method', ['direct', 'fft', 'auto'])
@pytest.mark.parametrize('length', [1, 7, 21, 40])
def test_computes_the_sum_over_past_samples(kernel, method, length):
    op, x = built(kernel, 4, 4, 21, groups=4, method=method), signal(2, 4, length)
    rows = expected_kernel(op)
    expected = np.zeros(x.shape)
    for t in range(length):
        for lag in range(min(t, 20) + 1):
            expected[:, :, t] += rows[:, lag] * x.numpy()[:, :, t - lag]
    expected += sequence_oracle.double(op.bias)[:, None]
    assert relative(op(x), torch.from_numpy(expected)) < 1e-11


def test_the_multiresolution_layer_is_the_filters_one_after_the_other():
    op, x = built('multires', 3, 3, 30, groups=3, bias=False), signal(1, 3, 30)
    net = op.kernel_net
    for c in range(3):
        parameters = (sequence_oracle.double(p)[c] for p in (net.low, net.high, net.weights))
        expected = sequence_oracle.multiresolution(x[0, c].numpy(), *parameters)
        assert np.abs(op(x)[0, c].detach().numpy() - expected).max() < 1e-12


@pytest.mark.parametrize('kernel', ['sgconv', 'long'])
def test_each_side_of_a_centred_layer_has_a_kernel(kernel):
    op, x = built(kernel, 4, 6, 9, padding=4, groups=2, causal=False), signal(2, 4, 21)
    values = op.kernel_net(5, torch.float64).detach().view(2, 6, 2, 5)
    past, future = values.numpy()
    dense = np.concatenate([past[..., ::-1], future[..., :-1]], -1)
    assert np.abs(op.kernel().detach().numpy() - dense).max() == 0
    assert relative(op(x), torch.from_numpy(conv_loop(x, dense, op.bias, padding=4, groups=2))) < 1e-11


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('settings', [{'groups': 4}, {}, {'separable': True}, {'groups': 4, 'dilation': 2}], ids=str)
def test_folds_into_one_long_kernel(kernel, settings):
    op = built(kernel, 4, 4, 21, **settings)
    for length in (1, 20, 50):
        x = signal(2, 4, length)
        assert relative(op.to_conv1d(dense=True)(x), op(x)) < 1e-12
    assert [type(layer) for layer in op.to_conv1d(dense=True)] == [nn.ConstantPad1d, nn.Conv1d]


def test_the_kernel_of_sgconv_starts_at_norm_one_whatever_the_first_input():
    op = built('sgconv', 4, 4, 24, groups=4)
    before = op.kernel_net.kernel_norm.clone()
    op(signal(2, 4, 5))
    assert torch.equal(op.kernel_net.kernel_norm, before)
    bare = op.kernel_net(24, torch.float64)
    bare = torch.cat([bare[:, :1] - op.kernel_net.skip, bare[:, 1:]], 1)
    assert torch.allclose(bare.norm(dim=1), torch.ones(4, dtype=torch.float64))
    with torch.no_grad():
        op.kernel_net.scales[0].mul_(3)
    loaded = built('sgconv', 4, 4, 24, groups=4)
    loaded.load_state_dict(op.state_dict())
    assert torch.equal(loaded.kernel(), op.kernel())


def test_each_channel_can_have_a_decay_of_its_own():
    op = built('sgconv', 3, 3, 24, groups=3, decay=(1.0, 3.0))
    scales = [sequence_oracle.double(scale) for scale in op.kernel_net.scales]
    for channel, decay in enumerate((1.0, 2.0, 3.0)):
        kernel = sequence_oracle.scales_kernel([scale[channel] for scale in scales], decay)
        assert abs(np.linalg.norm(kernel) / float(op.kernel_net.kernel_norm[channel]) - 1) < 1e-12


@pytest.mark.parametrize('kernel', KERNELS)
def test_every_parameter_learns_and_copies_agree(kernel):
    op, x = built(kernel, 4, 4, 21, groups=4), signal(2, 4, 30)
    op(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in op.parameters())
    assert torch.equal(copy.deepcopy(op)(x), op(x)) and f'kernel={kernel!r}' in repr(op)


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_kernel_in_full_precision(kernel, dtype):
    if dtype == torch.float16 and torch.__version__ < '2.3':
        pytest.skip('torch before 2.3 has no CPU autocast in float16')
    op = built(kernel, 4, 4, 21, groups=4, dtype=torch.float32, method='direct')
    with torch.autocast('cpu', dtype=dtype):
        kernel, y = op.kernel(), op(signal(2, 4, 30, dtype=torch.float32))
    assert torch.equal(kernel, op.kernel()) and y.dtype == dtype


@pytest.mark.parametrize('kernel', KERNELS)
def test_compiles_without_graph_breaks(kernel):
    op, x = built(kernel, 4, 4, 21, groups=4, method='direct'), signal(2, 4, 30)
    torch._dynamo.reset()
    assert relative(torch.compile(op, fullgraph=True, backend='aot_eager')(x), op(x)) < 1e-12


def test_what_only_a_function_of_the_position_can_do_is_refused():
    op, x = built('long', 4, 4, 21, groups=4), signal(2, 4, 30)
    with pytest.raises(ValueError, match="one resolution, since its samples are parameters, got 2; use kernel='mlp'"):
        op(x, scale_factor=2)
    with pytest.raises(ValueError, match=r'0: .*one resolution'):
        set_resolution(nn.Sequential(op), 0.5)
    with pytest.raises(ValueError, match="times needs a kernel with values between its samples, got kernel='long'"):
        op(x, times=torch.arange(30.0))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'kernel': 'sgcon'}, "did you mean 'sgconv'"),
        ({'kernel': 'long', 'scale_size': 3}, "scale_size is an option of kernel='sgconv'"),
        ({'squash': 0.1}, "squash is an option of kernel='long', got squash=0.1 with kernel='mlp'"),
        ({'kernel': 'long', 'hidden': 8}, "hidden is an option of kernel='mlp'"),
        ({'kernel': 'sgconv', 'mask': 'gaussian'}, "mask is an option of kernel='mlp'"),
        ({'kernel': 'sgconv', 'decay': 0.0}, 'decay must be > 0'),
        ({'kernel': 'sgconv', 'decay': (1.0, 2.0, 3.0)}, 'decay'),
        ({'kernel': 'multires', 'filter_size': 1}, 'filter_size must be >= 2'),
        ({'kernel': 'multires', 'causal': False}, "kernel='multires' is causal"),
        ({'kernel': 'long', 'kernel_size': None}, "kernel_size=None is for kernel='mlp'"),
    ],
    ids=str,
)
def test_bad_combinations_are_named(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CKConv1d(**{'in_channels': 4, 'out_channels': 4, 'kernel_size': 21, 'groups': 4, **settings})
