"""CKConv1d against the direct sum over past samples, its two methods, and its behaviour as a module."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv1d
from tests.ops.ckconv.ck_operators import CAUSAL, random_1d, response_1d, signal
from tests.ops.ckconv.ck_oracle import conv_loop, kernel_of, sampled
from tests.ops.contract import relative

METHODS = ['direct', 'fft', 'auto']


@pytest.mark.parametrize('settings', CAUSAL)
@pytest.mark.parametrize('length', [5, 12, 13, 30])
@pytest.mark.parametrize('method', METHODS)
def test_a_causal_layer_computes_the_sum_over_past_samples(settings, length, method):
    op = random_1d(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 12, **CAUSAL[settings], 'method': method})
    x = signal(2, 4, length)
    y = op(x)
    assert y.shape == (2, op.out_channels, length) and relative(y, response_1d(op, x)) < 1e-11


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
def test_a_centred_layer_convolves_with_the_sampled_kernel(settings, method):
    op = random_1d(
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
    """Build the same layer with both methods."""
    torch.manual_seed(0)
    direct = CKConv1d(*args, **{'hidden': 8, **kwargs}, method='direct')
    fourier = CKConv1d(*args, **{'hidden': 8, **kwargs}, method='fft')
    fourier.load_state_dict(direct.state_dict())
    return direct, fourier


@pytest.mark.parametrize('length', [*range(1, 71), 1021, 2048, 3001])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-4), (torch.float64, 1e-11)], ids=str)
def test_fft_agrees_with_direct_for_every_length(length, dtype, tolerance):
    """Odd lengths matter most: the code of the authors is wrong there."""
    x = signal(2, 2, length, dtype=dtype)
    for size in (length, length // 2 + 1):
        direct, fourier = pair(2, 3, size, dtype=dtype)
        assert relative(fourier(x), direct(x)) < tolerance
    direct, fourier = pair(2, 3, length - 1 + length % 2, causal=False, padding=length // 2, dtype=dtype)
    assert relative(fourier(x), direct(x)) < tolerance


@pytest.mark.parametrize('settings', [{}, {'groups': 2}, {'separable': True}, {'dilation': 2}], ids=str)
def test_fft_gradients_agree_with_direct_gradients(settings):
    results = []
    for op in pair(4, 6, 33, dtype=torch.float64, **settings):
        x = signal(3, 4, 41).requires_grad_()
        op(x).pow(3).sum().backward()
        results.append([x.grad, *(p.grad for p in op.parameters())])
    assert all(relative(a, b) < 1e-11 for a, b in zip(*results))


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('causal', [True, False])
def test_one_layer_takes_sequences_of_different_lengths(method, causal):
    op = random_1d(2, 3, 31, causal=causal, padding=0 if causal else 15, method=method)
    fresh = copy.deepcopy(op)
    for length in (70, 31, 64, 1, 33):
        x = signal(2, 2, length)
        assert torch.equal(op(x), copy.deepcopy(fresh)(x)) and op(x).shape == (2, 3, length)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('settings', [{}, {'separable': True}, {'dilation': 2}, {'activation': 'rff'}], ids=str)
def test_outputs_do_not_depend_on_future_samples(method, settings):
    op, x = random_1d(2, 3, 20, method=method, **settings), signal(1, 2, 40).requires_grad_()
    y = op(x)
    changed = x.detach().clone()
    changed[..., 25:] += 100
    # Fourier transforms spread rounding errors of future samples over all samples.
    assert float((op(changed) - y)[..., :25].detach().abs().max()) < 1e-9 * float(op(changed).detach().abs().max())
    assert float((op(changed) - y)[..., 25].detach().abs().min()) > 1e-3
    (gradient,) = torch.autograd.grad(y[..., 24].sum(), x)
    assert float(gradient[..., 25:].abs().max()) < 1e-12 * float(gradient.abs().max())
    assert float(gradient[..., 24].abs().min()) > 0


def test_the_layer_takes_the_positional_arguments_of_conv1d():
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
def test_gradients_pass_gradcheck(method, settings):
    op, x = random_1d(2, 2, 5, method=method, hidden=3, **settings), signal(2, 2, 7).requires_grad_()
    assert gradients_are_right(op, x)


def gradients_are_right(op: CKConv1d, x: torch.Tensor, times: torch.Tensor | None = None) -> bool:
    names = [name for name, _ in op.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in op.parameters()]

    def function(x, times, *values):
        return torch.func.functional_call(op, dict(zip(names, values)), (x, times))

    return torch.autograd.gradcheck(function, (x, times, *values))


@pytest.mark.parametrize('settings', [{}, {'separable': True, 'groups': 2}, {'activation': 'swish'}], ids=str)
@pytest.mark.parametrize('learnt', [True, False])
def test_gradients_pass_gradcheck_with_irregular_times(settings, learnt):
    """Includes the gradients of the times, at times where no sample enters or leaves the kernel."""
    op = random_1d(2, 2, 5, hidden=3, **settings)
    times = torch.tensor([0.0, 0.3, 1.1, 3.9, 4.7, 9.2], dtype=torch.float64, requires_grad=learnt)
    assert gradients_are_right(op, signal(2, 2, 6).requires_grad_(), times)


@pytest.mark.parametrize('method', METHODS)
def test_the_layer_can_be_copied_pickled_and_saved_after_a_forward_pass(method):
    """Layers of the authors cannot be copied after a forward pass."""
    op, x = random_1d(2, 3, 16, method=method), signal(2, 2, 20)
    expected = op(x)
    for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert torch.equal(copied(x), expected)
    stream, other = io.BytesIO(), random_1d(2, 3, 16, method=method)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    torch.save(op.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(other(x), expected)


def test_distributed_data_parallel_works_after_a_forward_pass(tmp_path):
    """In the authors' code the kernel is a buffer whose shape changes, which DistributedDataParallel broadcasts."""
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip('torch has no distributed package')
    op = random_1d(2, 3, 16)
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
def test_the_layer_compiles_without_graph_breaks(method):
    torch.manual_seed(0)
    op, x = CKConv1d(2, 3, 16, hidden=4, method=method), signal(2, 2, 20, dtype=torch.float32)
    torch._dynamo.reset()
    y = torch.compile(op, fullgraph=True, backend='aot_eager')(x)
    y.sum().backward()
    assert relative(y, op(x)) < 1e-5
    assert op.kernel_net.layers[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('times', [True, False])
def test_autocast_gives_bfloat16_outputs_and_float32_gradients(method, times):
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
def test_an_empty_batch_gives_an_empty_result(method):
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
