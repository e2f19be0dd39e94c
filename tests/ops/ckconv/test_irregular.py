"""CKConv1d for irregularly sampled sequences."""

import math
from fractions import Fraction

import pytest
import torch

from mmkerv.ops import CKConv1d
from mmkerv.ops.ckconv import irregular
from tests.ops.ckconv.ck_operators import CAUSAL, random_1d, response_1d, signal
from tests.ops.ckconv.ck_oracle import irregular_sum, kernel_of
from tests.ops.contract import relative


def times_of(length: int) -> torch.Tensor:
    gaps = torch.rand(length, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 + 0.05
    return gaps.cumsum(0) + 100


@pytest.mark.parametrize(
    'settings', ['plain', 'groups', 'depthwise', 'separable', 'separable_groups', 'no_bias', 'rff']
)
@pytest.mark.parametrize('ratio', [1, 2])
def test_irregular_times_give_the_sum_over_past_samples(settings, ratio):
    op = random_1d(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 12, **CAUSAL[settings]})
    x, times = signal(2, 4, 20), times_of(20)
    expected = irregular_sum(x, times.tolist(), kernel_of(op), 12, op.bias, ratio=ratio, groups=op.groups)
    assert relative(op(x, times=times, scale_factor=ratio), torch.from_numpy(expected)) < 1e-11
    op.set_resolution(ratio)
    assert relative(op(x, times), torch.from_numpy(expected)) < 1e-11


@pytest.mark.parametrize('settings', ['plain', 'groups', 'separable', 'one_tap', 'two_taps', 'swish'])
@pytest.mark.parametrize('dtype', [torch.long, torch.float32, torch.float64], ids=str)
def test_regular_times_give_the_same_output_as_no_times(settings, dtype):
    op = random_1d(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 12, **CAUSAL[settings]})
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
def test_denser_or_sparser_regular_times_agree_with_another_resolution(ratio):
    op, x = random_1d(2, 3, 5), signal(2, 2, 60)
    times = torch.arange(60, dtype=torch.float64) / float(ratio)
    expected = op(x, scale_factor=float(ratio))
    assert relative(expected, response_1d(op, x, ratio)) < 1e-11
    assert relative(op(x, times=times, scale_factor=float(ratio)), expected) < 1e-11


@pytest.mark.parametrize('ratio', [3, 7, 10])
def test_times_in_single_precision_lose_no_sample(ratio):
    op, x = random_1d(2, 3, 5), signal(2, 2, 60)
    times = torch.arange(60, dtype=torch.float32) / ratio
    assert relative(op(x, times=times, scale_factor=ratio), op(x, scale_factor=ratio)) < 1e-3


def test_missing_samples_count_as_zeros():
    """Leaving samples out gives the same output as setting them to 0."""
    op, x = random_1d(2, 3, 9), signal(2, 2, 30)
    kept = torch.tensor([0, 1, 4, 5, 6, 13, 25, 29])
    whole = torch.zeros_like(x)
    whole[..., kept] = x[..., kept]
    assert relative(op(x[..., kept], times=kept), op(whole)[..., kept]) < 1e-11


def test_each_sequence_can_have_its_own_times():
    op, x = random_1d(2, 3, 9, separable=True), signal(3, 2, 12)
    times = torch.stack([times_of(12), torch.arange(12, dtype=torch.float64), times_of(12) * 0.3])
    y = op(x, times=times)
    for n in range(3):
        assert relative(y[n], op(x[n : n + 1], times=times[n])[0]) < 1e-12
    assert relative(y[0], y[1]) > 0.01


@pytest.mark.parametrize('settings', [{}, {'groups': 2}, {'separable': True}], ids=str)
@pytest.mark.parametrize('chunk', [1, 200, 777])
@pytest.mark.parametrize('each', [True, False])
def test_chunk_size_does_not_change_results(settings, chunk, each, monkeypatch):
    op, times = random_1d(4, 6, 9, **settings), times_of(17).requires_grad_()
    results, shapes = [], []
    original = op.kernel_net.forward
    op.kernel_net.forward = lambda positions, *rest: shapes.append(len(positions)) or original(positions, *rest)
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
def test_outputs_do_not_depend_on_later_samples_or_times(settings):
    op, x, times = random_1d(2, 3, 9, **settings), signal(1, 2, 20), times_of(20)
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
        # Seconds since 1970, a minute apart.
        (
            torch.tensor([1.7e9 + 60 * i for i in range(4)]),
            r'float32 near 1\.7e\+09, .* multiples of 128 only.*float64',
        ),
        (torch.full((4,), 1.7e9), r'multiples of 128 only'),
        (
            torch.tensor([2000.0, 2000.5, 2001.0, 2001.5], dtype=torch.float16),
            r'float16 near 2002, .*multiples of 1 only',
        ),
        (torch.tensor([1.7e9] * 4, dtype=torch.float64), r'increasing; sort'),
        (torch.tensor([5, 5, 6, 7]), r'increasing; sort'),
        (torch.tensor([1e5, 1e5, 1e5 + 1, 1e5 + 2]), r'increasing; sort'),
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
def test_invalid_times_raise_an_error(times, message):
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
def test_layers_that_do_not_support_times_raise_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        CKConv1d(2, 3, 3, **settings)(torch.randn(2, 2, 8), times=torch.arange(8))
