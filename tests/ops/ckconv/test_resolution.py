"""CKConv2d at another resolution, alone and in a model."""

import copy
import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv2d, frozen_kernels, set_resolution
from tests.ops.ckconv.ck_operators import random_2d, response_2d
from tests.ops.ckconv.ck_oracle import kernel_of, sampled
from tests.ops.contract import relative

RATIOS = [2, 3, 0.5, 1.5, 1 / 3, (2, 0.5), (1, 3), (0.75, 1.25)]


@pytest.mark.parametrize('ratio', RATIOS, ids=str)
@pytest.mark.parametrize('settings', [{}, {'separable': True, 'groups': 2}, {'method': 'fft', 'dilation': 2}], ids=str)
def test_another_resolution_samples_the_same_function_on_another_grid(ratio, settings):
    op = random_2d(4, 6, (7, 9), **settings)
    ratios = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    expected = torch.from_numpy(sampled(kernel_of(op), op.kernel_size, ratios))
    assert op.kernel(ratio).shape == expected.shape and relative(op.kernel(ratio), expected) < 1e-11
    # The input must be as large as the kernel at both resolutions.
    size = [d * max(now, k) + 2 for now, k, d in zip(expected.shape[2:], op.kernel_size, op.dilation)]
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    wanted = response_2d(op, x, ratios)
    assert relative(op(x, scale_factor=ratio), wanted) < 1e-11
    op.set_resolution(ratio)
    assert torch.equal(op.kernel(), op.kernel(ratio)) and relative(op(x), wanted) < 1e-11
    assert relative(op(x, scale_factor=1), response_2d(op, x)) < 1e-11, 'scale_factor is absolute'
    assert 'resolution=' in repr(op) and not any('resolution' in k for k in op.state_dict())
    op.set_resolution(1)
    assert relative(op(x), response_2d(op, x)) < 1e-11 and 'resolution=' not in repr(op)


@pytest.mark.parametrize(
    ('settings', 'ratio', 'padding'),
    [
        ({'padding': 3}, 2, (6, 6)),
        ({'padding': 3}, 0.5, (1, 1)),
        ({'padding': 3}, (1, 3), (3, 9)),
        ({'padding': 3}, 1.5, (4, 4)),
        ({'padding': 6, 'dilation': 2}, 2, (12, 12)),
        ({'padding': (1, 0)}, 2, (2, 0)),
        ({'padding': 5}, 2, (10, 10)),
        ({'padding': 'same'}, 2, 'same'),
        ({'padding': 'valid'}, 2, 'valid'),
        ({'padding': 3, 'padding_mode': 'circular'}, 2, (6, 6)),
        ({'padding': 3, 'separable': True}, 2, (6, 6)),
        ({'kernel_size': (7, 1), 'padding': (3, 0)}, 2, (6, 0)),
    ],
    ids=str,
)
def test_padding_scales_with_the_resolution(settings, ratio, padding):
    op = random_2d(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 7, **settings})
    x = torch.randn(1, 4, 24, 25, dtype=torch.float64)
    ratios = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    y = op(x, scale_factor=ratio)
    assert relative(y, response_2d(op, x, ratios, padding)) < 1e-11
    op.set_resolution(ratio)
    for folded in (op.to_conv2d(), op.to_conv2d(dense=True)):
        assert relative(folded(x), y) < 1e-11


@pytest.mark.parametrize(
    ('ratio', 'size', 'dilation', 'padding'),
    [
        *((r, 7, 1, padding) for r in (0.5, 0.75, 1.5, 2.0) for padding in (3, 2)),
        *((r, 5, 4, padding) for r in (0.5, 1.5, 2.0) for padding in (8, 4)),
        (0.75, 5, 4, 8),
        (0.75, 5, 4, 4),
        (1.5, 3, 5, 7),
    ],
)
def test_the_first_output_stays_at_the_same_position(ratio, size, dilation, padding):
    """Its window is centred on the same point of the image, to within one sample of the coarser grid."""
    op = CKConv2d(1, 1, size, dilation=dilation, padding=padding, bias=False)
    op.set_resolution(ratio)
    conv = op.to_conv2d()
    centre = dilation * (size - 1) / 2 - padding
    now = dilation * (conv.kernel_size[0] - 1) / 2 - conv.padding[0]
    assert abs(now / ratio - centre) <= max(1, 1 / ratio)


@pytest.mark.parametrize('separable', [True, False])
def test_response_to_a_finer_image_converges_to_that_of_the_coarse_one(separable):
    """Both are Riemann sums of one integral, so they differ by about one sample of the kernel's width."""

    def picture(samples):
        i = torch.linspace(0, 1, samples, dtype=torch.float64)
        return torch.stack([torch.sin(3 * i[:, None] + 2 * i), torch.cos(2 * i[:, None] * i)])[None]

    errors = []
    for size in (5, 9, 17, 33):
        torch.manual_seed(0)
        op = CKConv2d(2, 3, size, hidden=8, omega_0=2.0, separable=separable, dtype=torch.float64)
        coarse, fine = picture(2 * size + 1), picture(4 * size + 1)
        y = op(fine, scale_factor=2)[..., ::2, ::2]
        errors.append(relative(y, op(coarse)))
    assert all(after < 0.65 * before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.1


def test_set_resolution_changes_every_layer_of_a_model():
    torch.manual_seed(0)
    shared = CKConv2d(4, 4, 7, padding=3)
    model = nn.Sequential(CKConv2d(3, 4, 5, padding=2), nn.Sequential(nn.ReLU(), shared), shared, nn.Conv2d(4, 2, 1))
    x = torch.randn(1, 3, 12, 12)
    expected = copy.deepcopy(model)
    for m in (expected[0], expected[1][1]):
        m.set_resolution((2, 1))
    assert set_resolution(model, (2, 1)) == ['0', '1.1']
    assert torch.equal(model(x), expected(x)) and model(x).shape == (1, 2, 12, 12)
    assert set_resolution(model, 1) == ['0', '1.1'] and not torch.equal(model(x), expected(x))


def test_set_resolution_changes_all_layers_or_none():
    model = nn.Sequential(CKConv2d(3, 4, 7), nn.Sequential(CKConv2d(4, 4, 3)))
    with pytest.raises(ValueError, match=r'1\.0: at resolution 0\.5 a kernel of 3 samples has none left'):
        set_resolution(model, 0.5)
    assert model[0].resolution == (1.0, 1.0)


def test_set_resolution_of_a_partly_frozen_model_changes_nothing():
    model = nn.Sequential(CKConv2d(3, 4, 7), nn.Sequential(CKConv2d(4, 4, 3)))
    with frozen_kernels(model[1]), pytest.raises(RuntimeError, match='frozen_kernels'):
        set_resolution(model, 2)
    assert model[0].resolution == model[1][0].resolution == (1.0, 1.0)


def test_set_resolution_of_a_single_operator_reports_no_layer_name():
    with pytest.raises(ValueError, match=r'^at resolution 0\.1 a kernel of 3 samples'):
        set_resolution(CKConv2d(3, 4, 3), 0.1)


@pytest.mark.parametrize('model', [nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU()], ids=repr)
def test_set_resolution_needs_a_continuous_kernel(model):
    with pytest.raises(ValueError, match='found no CKConv'):
        set_resolution(model, 2)


@pytest.mark.parametrize(
    ('ratio', 'message'),
    [
        (0, 'resolution must be > 0, got 0'),
        (-1, 'resolution'),
        (math.nan, 'resolution'),
        (math.inf, 'resolution'),
        ('2', 'resolution must be a number'),
        (True, 'resolution'),
        (None, 'resolution'),
        ((2, 2, 2), 'one number or 2 of them'),
        ((2, 0.1), '0.1 a kernel of 7 samples has none left'),
        (0.3, '0.3 a kernel of 7 samples has none left'),
    ],
    ids=str,
)
def test_invalid_resolutions_raise_an_error(ratio, message):
    op = CKConv2d(3, 4, 7)
    calls = [op.set_resolution, lambda ratio: set_resolution(op, ratio)]
    if ratio is not None:
        calls += [op.kernel, lambda ratio: op(torch.randn(1, 3, 9, 9), scale_factor=ratio)]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=message):
            call(ratio)
    assert op.resolution == (1.0, 1.0)


@pytest.mark.parametrize('size', [3, 5, 9, 7, 19, 39])
def test_the_ratio_suggested_by_the_error_is_accepted(size):
    op = CKConv2d(1, 1, size)
    with pytest.raises(ValueError, match='at least') as caught:
        op.set_resolution(0.01)
    op.set_resolution(float(Fraction(str(caught.value).partition('at least ')[2].partition(',')[0])))
    assert op.kernel().shape == (1, 1, 3, 3)
