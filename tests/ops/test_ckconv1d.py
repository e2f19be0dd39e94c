"""CKConv1d against the literal sum over the past, its two methods, irregular times, and the authors' kernel."""

import copy
import inspect
import io
import math
import pickle
from fractions import Fraction

import pytest
import torch
from ops.ck_oracle import causal_sum, conv_loop, irregular_sum, kernel_of, sampled
from ops.contract import relative
from torch import nn

from mmkerv.ops import CKConv1d, frozen_kernels, irregular, set_resolution, switch_to_deploy

METHODS = ['direct', 'fft', 'auto']


def random_op(*args, **kwargs) -> CKConv1d:
    """An operator in float64 with every parameter random."""
    torch.manual_seed(0)
    op = CKConv1d(*args, **{'hidden': 6, 'dtype': torch.float64, **kwargs})
    with torch.no_grad():
        for p in op.parameters():
            p.normal_()
    return op


def signal(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def oracle(op: CKConv1d, x: torch.Tensor, ratio=1) -> torch.Tensor:
    """The literal sum over the past for the parameters and geometry of a causal ``op``."""
    y = causal_sum(
        x,
        kernel_of(op),
        op.kernel_size[0],
        op.bias,
        ratio=ratio,
        dilation=op.dilation[0],
        stride=op.stride[0],
        groups=op.groups,
    )
    return torch.from_numpy(y)


CAUSAL = {
    'plain': {},
    'groups': {'groups': 2},
    'depthwise': {'groups': 4, 'out_channels': 8},
    'separable': {'separable': True},
    'separable_groups': {'separable': True, 'groups': 2},
    'dilation': {'dilation': 3},
    'no_bias': {'bias': False},
    'one_tap': {'kernel_size': 1},
    'two_taps': {'kernel_size': 2},
    'relu': {'activation': 'relu', 'layers': 2},
    'swish': {'activation': 'swish', 'layers': 4},
    'rff': {'activation': 'rff', 'omega_0': 2.0},
}


@pytest.mark.parametrize('settings', CAUSAL)
@pytest.mark.parametrize('length', [5, 12, 13, 30])
@pytest.mark.parametrize('method', METHODS)
def test_causal_is_the_sum_over_the_past(settings, length, method):
    op = random_op(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 12, **CAUSAL[settings], 'method': method})
    x = signal(2, 4, length)
    y = op(x)
    assert y.shape == (2, op.out_channels, length) and relative(y, oracle(op, x)) < 1e-11


@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'padding': 4},
        {'padding': 'same', 'dilation': 2, 'groups': 2},
        {'padding': 4, 'padding_mode': 'circular', 'separable': True},
        {'padding': 5, 'padding_mode': 'reflect', 'bias': False},
        {'padding': 'valid', 'dilation': 2},
        {'kernel_size': 21, 'padding': 10},
    ],
    ids=str,
)
@pytest.mark.parametrize('method', METHODS)
def test_centred_is_the_convolution_with_the_sampled_kernel(settings, method):
    op = random_op(
        **{'in_channels': 4, 'out_channels': 6, 'kernel_size': 9, **settings, 'causal': False}, method=method
    )
    x = signal(2, 4, 21)
    expected = conv_loop(
        x,
        sampled(kernel_of(op), op.kernel_size),
        op.bias,
        padding=op.padding,
        dilation=op.dilation,
        groups=op.groups,
        padding_mode=op.padding_mode,
    )
    assert relative(op(x), torch.from_numpy(expected)) < 1e-11


def pair(*args, **kwargs) -> tuple[CKConv1d, CKConv1d]:
    """The same layer by both methods."""
    torch.manual_seed(0)
    direct = CKConv1d(*args, **{'hidden': 8, **kwargs}, method='direct')
    fourier = CKConv1d(*args, **{'hidden': 8, **kwargs}, method='fft')
    fourier.load_state_dict(direct.state_dict())
    return direct, fourier


@pytest.mark.parametrize('length', [*range(1, 71), 1021, 2048, 3001])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-4), (torch.float64, 1e-11)], ids=str)
def test_fourier_equals_direct_for_every_length(length, dtype, tolerance):
    """Odd lengths are where the authors' code is wrong."""
    x = signal(2, 2, length, dtype=dtype)
    for size in (length, length // 2 + 1):
        direct, fourier = pair(2, 3, size, dtype=dtype)
        assert relative(fourier(x), direct(x)) < tolerance
    direct, fourier = pair(2, 3, length - 1 + length % 2, causal=False, padding=length // 2, dtype=dtype)
    assert relative(fourier(x), direct(x)) < tolerance


@pytest.mark.parametrize('settings', [{}, {'groups': 2}, {'separable': True}, {'dilation': 2}], ids=str)
def test_gradients_of_fourier_equal_those_of_direct(settings):
    results = []
    for op in pair(4, 6, 33, dtype=torch.float64, **settings):
        x = signal(3, 4, 41).requires_grad_()
        op(x).pow(3).sum().backward()
        results.append([x.grad, *(p.grad for p in op.parameters())])
    assert all(relative(a, b) < 1e-11 for a, b in zip(*results))


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('causal', [True, False])
def test_other_lengths_follow_on_the_same_layer(method, causal):
    op = random_op(2, 3, 31, causal=causal, padding=0 if causal else 15, method=method)
    fresh = copy.deepcopy(op)
    for length in (70, 31, 64, 1, 33):
        x = signal(2, 2, length)
        assert torch.equal(op(x), copy.deepcopy(fresh)(x)) and op(x).shape == (2, 3, length)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('settings', [{}, {'separable': True}, {'dilation': 2}, {'activation': 'rff'}], ids=str)
def test_nothing_sees_the_future(method, settings):
    op, x = random_op(2, 3, 20, method=method, **settings), signal(1, 2, 40).requires_grad_()
    y = op(x)
    changed = x.detach().clone()
    changed[..., 25:] += 100
    # Fourier transforms spread the rounding of the future over all samples.
    assert float((op(changed) - y)[..., :25].detach().abs().max()) < 1e-9 * float(op(changed).detach().abs().max())
    assert float((op(changed) - y)[..., 25].detach().abs().min()) > 1e-3
    (gradient,) = torch.autograd.grad(y[..., 24].sum(), x)
    assert float(gradient[..., 25:].abs().max()) < 1e-12 * float(gradient.abs().max())
    assert float(gradient[..., 24].abs().min()) > 0


def test_takes_the_arguments_of_conv1d_by_position():
    names = list(inspect.signature(nn.Conv1d.__init__).parameters)[1:10]
    assert list(inspect.signature(CKConv1d.__init__).parameters)[1:10] == names
    op = CKConv1d(4, 8, (5,), (2,), 2, 1, 2, False, 'circular', causal=False)
    plain = nn.Conv1d(4, 8, 5, 2, 2, 1, 2, False, 'circular')
    for name in ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups', 'transposed'):
        assert getattr(op, name) == getattr(plain, name), name
    assert op.weight is None and op.bias is None and op.padding_mode == 'circular'
    assert not isinstance(op, nn.Conv1d) and not hasattr(op, 'init_weights')
    x = signal(2, 4, 20, dtype=torch.float32)
    assert op(x).shape == plain(x).shape


@pytest.mark.parametrize('method', ['direct', 'fft'])
@pytest.mark.parametrize('settings', [{}, {'separable': True, 'groups': 2}, {'causal': False, 'padding': 2}], ids=str)
def test_gradcheck(method, settings):
    op, x = random_op(2, 2, 5, method=method, hidden=3, **settings), signal(2, 2, 7).requires_grad_()
    assert gradients_are_right(op, x)


def gradients_are_right(op: CKConv1d, x: torch.Tensor, times: torch.Tensor | None = None) -> bool:
    names = [name for name, _ in op.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in op.parameters()]

    def function(x, times, *values):
        return torch.func.functional_call(op, dict(zip(names, values)), (x, times))

    return torch.autograd.gradcheck(function, (x, times, *values))


@pytest.mark.parametrize('settings', [{}, {'separable': True, 'groups': 2}, {'activation': 'swish'}], ids=str)
@pytest.mark.parametrize('learnt', [True, False])
def test_gradcheck_with_times(settings, learnt):
    """By the times too, wherever no sample enters or leaves the memory."""
    op = random_op(2, 2, 5, hidden=3, **settings)
    times = torch.tensor([0.0, 0.3, 1.1, 3.9, 4.7, 9.2], dtype=torch.float64, requires_grad=learnt)
    assert gradients_are_right(op, signal(2, 2, 6).requires_grad_(), times)


@pytest.mark.parametrize('method', METHODS)
def test_copies_and_pickles_after_a_forward(method):
    """The authors' layers cannot be copied after one."""
    op, x = random_op(2, 3, 16, method=method), signal(2, 2, 20)
    expected = op(x)
    for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert torch.equal(copied(x), expected)
    stream, other = io.BytesIO(), random_op(2, 3, 16, method=method)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    torch.save(op.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(other(x), expected)


def test_distributed_after_a_forward(tmp_path):
    """In the authors' code the kernel is a buffer whose shape changes, which DistributedDataParallel broadcasts."""
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip('torch has no distributed package')
    op = random_op(2, 3, 16)
    plain = copy.deepcopy(op)
    op(signal(2, 2, 20))
    distributed.init_process_group('gloo', init_method=(tmp_path / 'store').as_uri(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(op)
        for length in (20, 13):
            x = signal(2, 2, length)
            for net in (model, plain):
                net.zero_grad()
                net(x).square().sum().backward()
            assert all(torch.equal(a.grad, b.grad) for a, b in zip(op.parameters(), plain.parameters()))
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize('method', ['direct', 'fft'])
def test_compiles_without_graph_breaks(method):
    torch.manual_seed(0)
    op, x = CKConv1d(2, 3, 16, hidden=4, method=method), signal(2, 2, 20, dtype=torch.float32)
    torch._dynamo.reset()
    y = torch.compile(op, fullgraph=True, backend='aot_eager')(x)
    y.sum().backward()
    assert relative(y, op(x)) < 1e-5
    assert op.kernel_net.layers[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('times', [True, False])
def test_autocast(method, times):
    torch.manual_seed(0)
    op, x = CKConv1d(2, 3, 16, method=method), signal(2, 2, 20, dtype=torch.float32)
    given = torch.arange(20) if times else None
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = op(x, given)
    assert y.dtype == torch.bfloat16 and relative(y, op(x)) < 3e-2
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in op.parameters())


@pytest.mark.parametrize(
    ('method', 'bias'),
    [
        *(('direct', bias) for bias in (True, False)),
        ('fft', True),
        ('fft', False),
    ],
)
def test_the_result_is_contiguous(method, bias):
    assert CKConv1d(2, 3, 16, method=method, bias=bias)(torch.randn(3, 2, 23)).is_contiguous()


@pytest.mark.parametrize('method', METHODS)
def test_an_empty_batch_is_an_empty_result(method):
    for causal in (True, False):
        op = CKConv1d(2, 3, 9, method=method, causal=causal)
        y = op(torch.randn(0, 2, 20))
        assert y.shape == (0, 3, 20 if causal else 12)
        y.sum().backward()
    assert CKConv1d(2, 3, 9, method=method)(torch.randn(0, 2, 20), times=torch.arange(20)).shape == (0, 3, 20)
    assert CKConv1d(2, 3, 9, method=method)(torch.randn(0, 2, 20), times=torch.zeros(0, 20)).shape == (0, 3, 20)


@pytest.mark.parametrize('settings', [{}, {'groups': 4}, {'kernel_size': 784}, {'activation': 'relu'}], ids=str)
def test_initial_kernel_has_variance_one_over_fan_in(settings):
    torch.manual_seed(0)
    op = CKConv1d(**{'in_channels': 4, 'out_channels': 8, 'kernel_size': 50, **settings})
    fan_in = 4 // op.groups * op.kernel_size[0]
    assert float(op.kernel().detach().var(unbiased=False)) * fan_in == pytest.approx(1, rel=1e-3)


# Resolutions.


@pytest.mark.parametrize('ratio', [2, 3, 0.5, 1.5, 1 / 3, 0.7])
@pytest.mark.parametrize('settings', ['plain', 'groups', 'separable', 'dilation'])
@pytest.mark.parametrize('method', ['direct', 'fft'])
def test_another_resolution_is_the_same_sum_with_other_steps(ratio, settings, method):
    op = random_op(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 13, **CAUSAL[settings], 'method': method})
    for length in (7, 44):
        x = signal(2, 4, length)
        expected = oracle(op, x, ratio)
        assert relative(op(x, scale_factor=ratio), expected) < 1e-11
        op.set_resolution(ratio)
        assert relative(op(x), expected) < 1e-11
        assert relative(op(x, scale_factor=1), oracle(op, x)) < 1e-11
        op.set_resolution(1)
        assert relative(op(x), oracle(op, x)) < 1e-11


@pytest.mark.parametrize(
    ('size', 'ratio'), [(12, Fraction(15, 11)), (14, Fraction(30, 13)), (50, Fraction(1, 49))], ids=str
)
def test_a_ratio_that_floats_round_down_loses_no_sample(size, ratio):
    assert float(ratio) * (size - 1) < ratio * (size - 1), 'or the test proves nothing'
    op, x = random_op(2, 3, size), signal(1, 2, 60)
    assert relative(op(x, scale_factor=float(ratio)), oracle(op, x, ratio)) < 1e-11


@pytest.mark.parametrize('settings', [{}, {'separable': True}], ids=str)
def test_response_to_a_finer_signal_converges_to_the_response_to_the_coarse_one(settings):
    errors = []
    for size in (10, 20, 40, 80):
        torch.manual_seed(0)
        op = CKConv1d(1, 4, size, hidden=8, omega_0=2.0, dtype=torch.float64, **settings)
        coarse, fine = (torch.linspace(0, 1, r * 2 * size + 1, dtype=torch.float64) for r in (1, 2))
        y, expected = (op(torch.cos(4 * t)[None, None], scale_factor=r) for t, r in ((fine, 2), (coarse, 1)))
        errors.append(relative(y[..., ::2], expected))
    assert errors[3] < 0.6 * errors[2] < 0.6 * 0.6 * errors[1] < 0.6**3 * errors[0] and errors[3] < 0.1


def test_set_resolution_of_a_model():
    model = nn.Sequential(random_op(1, 4, 16), nn.ReLU(), random_op(4, 2, 7, causal=False, padding=3))
    x = signal(2, 1, 30)
    hidden = model[1](model[0](x, scale_factor=2))
    expected = model[2](hidden, scale_factor=2)
    assert set_resolution(model, 2) == ['0', '2']
    assert torch.equal(model(x), expected) and expected.shape == (2, 2, 30)
    with pytest.raises(ValueError, match=r'2: at resolution 0\.2 a kernel of 7 samples has none left'):
        set_resolution(model, 0.2)
    assert torch.equal(model(x), expected)
    with pytest.raises(ValueError, match='must be one number or 1 of them'):
        set_resolution(model, (2, 2))


@pytest.mark.parametrize('size', [2, 3, 4, 6, 11])
def test_resolutions_without_a_sample_are_refused_and_the_suggested_one_is_accepted(size):
    op = CKConv1d(1, 1, size)
    with pytest.raises(ValueError, match='none left beside the current one') as caught:
        op(torch.randn(1, 1, 20), scale_factor=0.9 / (size - 1))
    op.set_resolution(float(Fraction(str(caught.value).partition('at least ')[2].partition(',')[0])))
    assert op.kernel().shape == (1, 1, 2)


def test_frozen_kernels_serve_every_length():
    op, lengths = random_op(2, 3, 16).eval(), (1, 5, 16, 40)
    op.set_resolution(2)
    expected = [op(signal(2, 2, n)) for n in lengths]
    with frozen_kernels(op), torch.no_grad():
        op.kernel_net.forward = None
        assert all(relative(op(signal(2, 2, n)), y) < 1e-12 for n, y in zip(lengths, expected))
        del op.kernel_net.forward
        assert relative(op(signal(2, 2, 20), scale_factor=1), oracle(op, signal(2, 2, 20))) < 1e-11
        with pytest.raises(RuntimeError, match='set_resolution was called inside frozen_kernels'):
            op.set_resolution(1)
    with frozen_kernels(op), pytest.raises(RuntimeError, match='Train outside the block'):
        op.train()(signal(2, 2, 20))


# Irregular times.


def times_of(length: int) -> torch.Tensor:
    gaps = torch.rand(length, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 + 0.05
    return gaps.cumsum(0) + 100


@pytest.mark.parametrize(
    'settings', ['plain', 'groups', 'depthwise', 'separable', 'separable_groups', 'no_bias', 'rff']
)
@pytest.mark.parametrize('ratio', [1, 2])
def test_irregular_times_are_the_sum_over_the_past(settings, ratio):
    op = random_op(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 12, **CAUSAL[settings]})
    x, times = signal(2, 4, 20), times_of(20)
    expected = irregular_sum(x, times.tolist(), kernel_of(op), 12, op.bias, ratio=ratio, groups=op.groups)
    assert relative(op(x, times=times, scale_factor=ratio), torch.from_numpy(expected)) < 1e-11
    op.set_resolution(ratio)
    assert relative(op(x, times), torch.from_numpy(expected)) < 1e-11


@pytest.mark.parametrize('settings', ['plain', 'groups', 'separable', 'one_tap', 'two_taps', 'swish'])
@pytest.mark.parametrize('dtype', [torch.long, torch.float32, torch.float64], ids=str)
def test_regular_times_are_the_regular_forward(settings, dtype):
    op = random_op(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 12, **CAUSAL[settings]})
    for length in (1, 8, 30):
        x = signal(2, 4, length)
        for start in (0, 1000):
            assert relative(op(x, times=torch.arange(length).to(dtype) + start), op(x)) < 1e-11


@pytest.mark.parametrize(
    'ratio',
    [
        2,
        4,
        Fraction(1, 2),
        Fraction(1, 3),
        Fraction(2, 3),
        Fraction(3),
        Fraction(7),
    ],
    ids=str,
)
def test_regular_times_of_another_density_are_another_resolution(ratio):
    op, x = random_op(2, 3, 5), signal(2, 2, 60)
    times = torch.arange(60, dtype=torch.float64) / float(ratio)
    expected = op(x, scale_factor=float(ratio))
    assert relative(expected, oracle(op, x, ratio)) < 1e-11
    assert relative(op(x, times=times, scale_factor=float(ratio)), expected) < 1e-11


@pytest.mark.parametrize('ratio', [3, 7, 10])
def test_times_in_single_precision_lose_no_sample(ratio):
    op, x = random_op(2, 3, 5), signal(2, 2, 60)
    times = torch.arange(60, dtype=torch.float32) / ratio
    assert relative(op(x, times=times, scale_factor=ratio), op(x, scale_factor=ratio)) < 1e-3


def test_samples_may_be_missing():
    """A sequence with holes is one whose missing samples are 0."""
    op, x = random_op(2, 3, 9), signal(2, 2, 30)
    kept = torch.tensor([0, 1, 4, 5, 6, 13, 25, 29])
    whole = torch.zeros_like(x)
    whole[..., kept] = x[..., kept]
    assert relative(op(x[..., kept], times=kept), op(whole)[..., kept]) < 1e-11


def test_times_of_each_sequence():
    op, x = random_op(2, 3, 9, separable=True), signal(3, 2, 12)
    times = torch.stack([times_of(12), torch.arange(12, dtype=torch.float64), times_of(12) * 0.3])
    y = op(x, times=times)
    for n in range(3):
        assert relative(y[n], op(x[n : n + 1], times=times[n])[0]) < 1e-12
    assert relative(y[0], y[1]) > 0.01


@pytest.mark.parametrize('settings', [{}, {'groups': 2}, {'separable': True}], ids=str)
@pytest.mark.parametrize('chunk', [1, 200, 777])
@pytest.mark.parametrize('each', [True, False])
def test_chunks_change_nothing(settings, chunk, each, monkeypatch):
    op, times = random_op(4, 6, 9, **settings), times_of(17).requires_grad_()
    results, shapes = [], []
    original = op.kernel_net.forward
    op.kernel_net.forward = lambda positions: shapes.append(len(positions)) or original(positions)
    for limit in (irregular.CHUNK, chunk):
        monkeypatch.setattr(irregular, 'CHUNK', limit)
        x = signal(2, 4, 17).requires_grad_()
        op.zero_grad()
        times.grad = None
        shapes.append(0)
        y = op(x, times=torch.stack([times, 2 * times]) if each else times)
        y.pow(3).sum().backward()
        results.append([y, x.grad, times.grad, *(p.grad.clone() for p in op.parameters())])
    largest = max(shapes[: shapes.index(0, 1)]), max(shapes[shapes.index(0, 1) :])
    assert largest[0] == 17 * 17 and largest[1] <= max(17, chunk)
    assert all(relative(a, b) < 1e-11 for a, b in zip(*results))
    with torch.no_grad():
        assert relative(op(x, times=torch.stack([times, 2 * times]) if each else times), results[0][0]) < 1e-12


@pytest.mark.parametrize('settings', [{}, {'separable': True}], ids=str)
def test_nothing_sees_later_times(settings):
    op, x, times = random_op(2, 3, 9, **settings), signal(1, 2, 20), times_of(20)
    y = op(x, times=times)
    later, changed = times.clone(), x.clone()
    later[12:] += 0.7
    changed[..., 12:] += 5
    assert torch.equal(op(changed, times=later)[..., :12], y[..., :12])


@pytest.mark.parametrize(
    ('times', 'message'),
    [
        (torch.tensor([0.0, 2.0, 1.0, 3.0]), 'times must be finite and strictly increasing'),
        (torch.tensor([0.0, 1.0, 1.0, 3.0]), 'strictly increasing'),
        (torch.tensor([3, 2, 1, 0]), 'strictly increasing'),
        (torch.tensor([0.0, 1.0, math.nan, 3.0]), 'finite'),
        (torch.tensor([0.0, 1.0, 2.0, math.inf]), 'finite'),
        (torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 3.0, 2.0]]), 'strictly increasing'),
        (torch.arange(5), r'times must be \(L,\) or \(N, L\) for x \(N, C, L\), got \(5,\) for \(2, 2, 4\)'),
        (torch.arange(4)[:, None], 'times must be'),
        (torch.zeros(3, 4), 'times must be'),
        (torch.zeros(2, 2, 4), 'times must be'),
        (torch.tensor(1.0), 'times must be'),
        ([0.0, 1.0, 2.0, 3.0], 'times must be a tensor'),
    ],
    ids=str,
)
def test_bad_times_are_named(times, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CKConv1d(2, 3, 9)(torch.randn(2, 2, 4), times=times)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'causal': False}, 'times needs a causal layer'),
        ({'stride': 2}, r'times needs stride 1, got \(2,\)'),
        ({'dilation': 3}, r'times needs dilation 1, got \(3,\)'),
    ],
    ids=str,
)
def test_layers_that_take_no_times_say_so(settings, message):
    with pytest.raises(ValueError, match=message):
        CKConv1d(2, 3, 3, **settings)(torch.randn(2, 2, 8), times=torch.arange(8))


# Strides and folding.


@pytest.mark.parametrize('stride', [2, 3])
@pytest.mark.parametrize('settings', ['plain', 'groups', 'separable', 'dilation'])
def test_a_strided_layer_gives_every_so_manieth_output(stride, settings):
    settings = {'in_channels': 4, 'out_channels': 6, 'kernel_size': 5, **CAUSAL[settings]}
    op, every = random_op(**settings, stride=stride), random_op(**settings)
    for length in (13, 14, 15, 30):
        x = signal(2, 4, length)
        assert relative(op(x), every(x)[..., ::stride]) < 1e-12
        assert relative(op(x), oracle(op, x)) < 1e-11


@pytest.mark.parametrize(
    ('settings', 'reach'),
    [
        ({'kernel_size': 8}, 8),
        ({'kernel_size': 8, 'dilation': 2}, 15),
        ({'kernel_size': 9, 'causal': False}, 9),
        ({'kernel_size': 9, 'causal': False, 'padding': 3}, 3),
        ({'kernel_size': 9, 'causal': False, 'padding': 2, 'dilation': 2}, 13),
    ],
    ids=str,
)
def test_sequences_shorter_than_a_strided_layer_reaches_are_refused(settings, reach):
    op = CKConv1d(2, 3, **settings, stride=2)
    assert op(torch.randn(1, 2, reach)).shape[-1] >= 1
    with pytest.raises(ValueError, match=f'x must be at least as long.*got {reach - 1}; use stride=1, or a smaller'):
        op(torch.randn(1, 2, reach - 1))


def test_a_finer_resolution_makes_a_strided_layer_reach_further():
    op = CKConv1d(2, 3, 8, stride=2)
    assert op(torch.randn(1, 2, 15), scale_factor=2).shape == (1, 3, 8)
    with pytest.raises(ValueError, match='15 samples, got 14'):
        op(torch.randn(1, 2, 14), scale_factor=2)


FOLDS = [
    {},
    {'separable': True},
    {'separable': True, 'groups': 2},
    {'groups': 4, 'bias': False},
    {'dilation': 3},
    {'stride': 2, 'separable': True},
    {'causal': False, 'padding': 4},
    {'causal': False, 'padding': 'same', 'separable': True},
    {'causal': False, 'stride': 3, 'padding': 1, 'padding_mode': 'circular'},
]


@pytest.mark.parametrize('settings', FOLDS, ids=str)
@pytest.mark.parametrize('ratio', [1, 2])
def test_folds_exactly(settings, ratio):
    op = random_op(4, 8, 9, **settings)
    op.set_resolution(ratio)
    for length in (20, 37):
        x = signal(2, 4, length)
        for folded in (op.to_conv1d(), op.to_conv1d(dense=True)):
            assert relative(folded(x), op(x)) < 1e-12
            assert all(
                'Conv1d' in type(m).__name__ or 'Pad' in type(m).__name__ for m in folded.modules() if m is not folded
            )
    convolutions = [m for m in op.to_conv1d(dense=True).modules() if isinstance(m, nn.Conv1d)]
    assert len(convolutions) == 1 and torch.equal(convolutions[0].weight, op.kernel())


def test_a_fold_serves_sequences_shorter_than_the_kernel():
    op, x = random_op(2, 3, 9), signal(2, 2, 4)
    assert relative(op.to_conv1d()(x), op(x)) < 1e-12


def test_folds_in_a_model():
    model = nn.Sequential(random_op(2, 4, 9, separable=True), nn.ReLU(), random_op(4, 3, 5, causal=False, padding=2))
    x, expected = signal(2, 2, 20), model.eval()(signal(2, 2, 20))
    assert switch_to_deploy(model).replaced == ['0', '2']
    assert not any(isinstance(m, CKConv1d) or m.training for m in model.modules())
    assert relative(model(x), expected) < 1e-12


def test_a_1d_layer_gives_no_wrong_convolution():
    op, x = random_op(2, 3, 9), signal(2, 2, 20)
    if hasattr(op, 'to_conv2d'):
        with pytest.raises((RuntimeError, TypeError, AttributeError, NotImplementedError), match='to_conv1d'):
            op.to_conv2d()(x)


# Kernels as long as the first sequence.


@pytest.mark.parametrize('settings', ['plain', 'separable', 'relu', 'swish', 'rff', 'no_bias'])
@pytest.mark.parametrize('length', [7, 256, 300])
def test_an_unknown_size_is_that_of_the_first_sequence(settings, length):
    settings = {'in_channels': 4, 'out_channels': 6, 'dtype': torch.float64, **CAUSAL[settings]}
    torch.manual_seed(0)
    op = CKConv1d(**settings, kernel_size=None)
    torch.manual_seed(0)
    known = CKConv1d(**settings, kernel_size=length)
    for n in (length, 5, length + 20):
        x = signal(1, 4, n)
        assert relative(op(x), known(x)) < 1e-9
    assert op.kernel_size == (length,) and relative(op.kernel(), known.kernel()) < 1e-9


def test_the_size_found_is_kept():
    op, fresh, x = CKConv1d(2, 3, None), CKConv1d(2, 3, None), signal(2, 2, 30, dtype=torch.float32)
    expected = op(x)
    for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert torch.equal(copied(x[..., :9]), op(x[..., :9])) and copied.kernel_size == (30,)
    fresh.load_state_dict(op.state_dict())
    assert torch.equal(fresh(x[..., :9]), op(x[..., :9])) and torch.equal(fresh(x), expected)
    assert fresh.kernel_size == (30,)


def test_a_loaded_kernel_is_never_rescaled():
    """mmengine loads checkpoints without strict."""
    known, unknown, x = CKConv1d(2, 3, 30), CKConv1d(2, 3, None), signal(2, 2, 50, dtype=torch.float32)
    unknown.load_state_dict(known.state_dict(), strict=False)
    weight = known.kernel_net.layers[-1].weight
    unknown(x)
    assert torch.equal(unknown.kernel_net.layers[-1].weight, weight) and torch.equal(unknown.bias, known.bias)


def test_parameters_and_buffers_copied_one_by_one_are_the_whole_layer():
    """As averages of the weights do."""
    op, x = CKConv1d(2, 3, None), signal(2, 2, 30, dtype=torch.float32)
    average = copy.deepcopy(op)
    op(x)
    for a, b in zip(average.state_dict().values(), op.state_dict().values()):
        a.copy_(b)
    assert torch.equal(average(x[..., :9]), op(x[..., :9]))


@pytest.mark.parametrize(
    'use',
    [
        lambda op: op.kernel(),
        lambda op: op.set_resolution(2),
        lambda op: op.to_conv1d(),
        lambda op: op(torch.randn(1, 2, 5), times=torch.arange(5)),
    ],
    ids=['kernel', 'set_resolution', 'to_conv1d', 'times'],
)
def test_an_unknown_size_is_said(use):
    with pytest.raises(RuntimeError, match='kernel_size=None and has seen no sequence'):
        use(CKConv1d(2, 3, None))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'causal': False, 'kernel_size': 8}, r'kernel_size must be odd.*got \(8,\); use \(9,\)'),
        ({'causal': False, 'kernel_size': None}, 'kernel_size'),
        ({'kernel_size': 0}, 'kernel_size'),
        ({'kernel_size': (3, 3)}, 'kernel_size'),
        ({'padding': 4}, 'a causal layer pads with zeros on the left by itself, got padding='),
        ({'padding': 'same'}, 'causal layer pads'),
        ({'padding_mode': 'circular'}, "padding_mode='circular'"),
        ({'method': 'fft', 'stride': 2}, "method='fft' needs stride 1, got stride=\\(2,\\)"),
        ({'method': 'fft', 'stride': 2, 'causal': False}, "method='fft' needs stride 1"),
        ({'causal': 1}, 'causal must be True or False'),
        ({'omega_0': 0.0}, 'omega_0 must be > 0'),
        ({'omega_0': 31.0, 'activation': 'relu'}, 'omega_0 is the frequency'),
        ({'hidden': 5, 'activation': 'rff'}, 'hidden must be even'),
        ({'layers': 1}, 'layers'),
        ({'method': 'dft'}, 'method must be one of'),
        ({'seperable': True}, "no argument 'seperable'; did you mean 'separable'"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CKConv1d(**{'in_channels': 2, 'out_channels': 3, 'kernel_size': 9, **settings})


@pytest.mark.parametrize('shape', [(2, 20), (20,), (1, 2, 4, 5)], ids=str)
def test_inputs_of_another_rank_are_named(shape):
    with pytest.raises(ValueError, match=r'x must be \(N, C, L\), got'):
        CKConv1d(2, 3, 9)(torch.randn(shape))


def test_the_authors_kernel(data_root):
    """Of the first layer they published for sequential MNIST, sampled as their own code does."""
    file = data_root / 'ckconv_official' / 'mnist_perm_False_ckcnn_30.pt'
    if not file.is_file():
        pytest.skip('no published CKCNN among the real data')
    state = torch.load(file, map_location='cpu', weights_only=True)
    op = CKConv1d(1, 30, 784, omega_0=31.09195739463897)
    layers = 'backbone.0.cconv1.Kernel.kernel_net.'
    with torch.no_grad():
        for layer, index in zip(op.kernel_net.layers, (0, 4, 8)):
            g, v = (state[f'{layers}{index}.weight_{name}'][..., 0] for name in 'gv')
            layer.weight.copy_(g * v / v.norm(dim=1, keepdim=True))
            layer.bias.copy_(state[f'{layers}{index}.bias'])
        kernel = op.kernel()
    assert kernel.shape == (30, 1, 784)
    assert float(kernel.mean()) == pytest.approx(-0.073403, abs=1e-4)
    assert float(kernel.std()) == pytest.approx(0.817348, abs=1e-4)
    assert kernel[0, 0, :4].tolist() == pytest.approx([-1.948863, -2.126651, -0.553692, 1.570415], abs=1e-3)
    assert kernel[29, 0, -3:].tolist() == pytest.approx([-1.269804, -1.117483, -1.031303], abs=1e-3)
    # An impulse shows that the last sample of the kernel meets the current one.
    response = op(torch.eye(784)[None, :1]) - op.bias[:, None]
    assert relative(response[0], kernel[:, 0].flip(-1)) < 1e-4
