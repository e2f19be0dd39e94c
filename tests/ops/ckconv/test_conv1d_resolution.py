"""CKConv1d at another resolution and with frozen kernels."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv1d, frozen_kernels, set_resolution
from tests.ops.ckconv.ck_operators import CAUSAL, random_1d, response_1d, signal
from tests.ops.contract import relative


@pytest.mark.parametrize('ratio', [2, 3, 0.5, 1.5, 1 / 3, 0.7])
@pytest.mark.parametrize('settings', ['plain', 'groups', 'separable', 'dilation'])
@pytest.mark.parametrize('method', ['direct', 'fft'])
def test_another_resolution_computes_the_same_sum_with_another_step(ratio, settings, method):
    op = random_1d(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 13, **CAUSAL[settings], 'method': method})
    for length in (7, 44):
        x = signal(2, 4, length)
        expected = response_1d(op, x, ratio)
        assert relative(op(x, scale_factor=ratio), expected) < 1e-11
        op.set_resolution(ratio)
        assert relative(op(x), expected) < 1e-11
        assert relative(op(x, scale_factor=1), response_1d(op, x)) < 1e-11
        op.set_resolution(1)
        assert relative(op(x), response_1d(op, x)) < 1e-11


@pytest.mark.parametrize(
    ('size', 'ratio'), [(12, Fraction(15, 11)), (14, Fraction(30, 13)), (50, Fraction(1, 49))], ids=str
)
def test_a_ratio_rounded_down_by_floating_point_loses_no_sample(size, ratio):
    assert float(ratio) * (size - 1) < ratio * (size - 1), 'or the test proves nothing'
    op, x = random_1d(2, 3, size), signal(1, 2, 60)
    assert relative(op(x, scale_factor=float(ratio)), response_1d(op, x, ratio)) < 1e-11


@pytest.mark.parametrize('settings', [{}, {'separable': True}], ids=str)
def test_response_to_a_finer_signal_converges_to_that_of_the_coarse_one(settings):
    errors = []
    for size in (10, 20, 40, 80):
        torch.manual_seed(0)
        op = CKConv1d(1, 4, size, hidden=8, omega_0=2.0, dtype=torch.float64, **settings)
        coarse, fine = (torch.linspace(0, 1, r * 2 * size + 1, dtype=torch.float64) for r in (1, 2))
        y, expected = (op(torch.cos(4 * t)[None, None], scale_factor=r) for t, r in ((fine, 2), (coarse, 1)))
        errors.append(relative(y[..., ::2], expected))
    assert errors[3] < 0.6 * errors[2] < 0.6 * 0.6 * errors[1] < 0.6**3 * errors[0] and errors[3] < 0.1


def test_set_resolution_changes_every_layer_of_a_model():
    model = nn.Sequential(random_1d(1, 4, 16), nn.ReLU(), random_1d(4, 2, 7, causal=False, padding=3))
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
def test_too_coarse_resolutions_are_rejected_and_the_suggested_one_is_accepted(size):
    op = CKConv1d(1, 1, size)
    with pytest.raises(ValueError, match='none left beside the current one') as caught:
        op(torch.randn(1, 1, 20), scale_factor=0.9 / (size - 1))
    op.set_resolution(float(Fraction(str(caught.value).partition('at least ')[2].partition(',')[0])))
    assert op.kernel().shape == (1, 1, 2)


def test_frozen_kernels_work_for_every_length():
    op, lengths = random_1d(2, 3, 16).eval(), (1, 5, 16, 40)
    op.set_resolution(2)
    expected = [op(signal(2, 2, n)) for n in lengths]
    with frozen_kernels(op), torch.no_grad():
        op.kernel_net.forward = None
        assert all(relative(op(signal(2, 2, n)), y) < 1e-12 for n, y in zip(lengths, expected))
        del op.kernel_net.forward
        assert relative(op(signal(2, 2, 20), scale_factor=1), response_1d(op, signal(2, 2, 20))) < 1e-11
        with pytest.raises(RuntimeError, match='set_resolution was called inside frozen_kernels'):
            op.set_resolution(1)
    with frozen_kernels(op), pytest.raises(RuntimeError, match='Train outside the block'):
        op.train()(signal(2, 2, 20))
