"""The CoC oracle against hand-computed values, so that it can serve as the reference for the operator."""

import math

import numpy as np
import pytest
import torch

from tests.ops.coc.coc_oracle import association_groups, coc_kernel, conv2d_loop, super_kernel_geometry, to_float64

SHARES = ['ci', 'co', 'cico', None]
EPS = 1e-5


def delta(u, v, size=3):
    """Super kernel with a single 1 at row ``u``, column ``v``."""
    kernel = np.zeros((1, 1, size, size))
    kernel[0, 0, u, v] = 1.0
    return kernel


def column(*values):
    """One 1x1 filter with one input channel per value."""
    return np.array(values, dtype=np.float64).reshape(-1, 1, 1, 1)


def run(weight, super_weights, super_biases=None, **options):
    """Call `coc_kernel`, by default for undilated layers that share one super kernel, without skip."""
    settings = dict(association=2, super_dilation=(1, 1), skip=False, share='cico', groups=1) | options
    super_biases = super_biases or [None] * len(super_weights)
    return coc_kernel(weight, super_weights, super_biases, super_kernel=super_weights[0].shape[2:], **settings)


def super_shape(share, n_groups, n_inputs):
    return {'ci': (n_groups, 1), 'co': (n_inputs, 1), 'cico': (1, 1), None: (n_inputs, n_inputs)}[share]


@pytest.mark.parametrize(
    ('tap', 'expected'),
    [
        # The tile is [[1, 2], [3, 4]] and tap (u, v) reads the entry u - 1 rows below and v - 1 columns right.
        ((0, 0), [0, 0, 0, 1]),
        ((0, 1), [0, 0, 1, 2]),
        ((0, 2), [0, 0, 2, 0]),
        ((1, 0), [0, 1, 0, 3]),
        ((1, 1), [1, 2, 3, 4]),
        ((1, 2), [2, 0, 4, 0]),
        ((2, 0), [0, 3, 0, 0]),
        ((2, 1), [3, 4, 0, 0]),
        ((2, 2), [4, 0, 0, 0]),
    ],
)
def test_a_1x1_filter_receives_its_tile_neighbour(tap, expected):
    weight = column(1, 2, 3, 4)
    np.testing.assert_array_equal(run(weight, [delta(*tap)]), column(*expected))
    np.testing.assert_array_equal(run(weight, [delta(*tap)], skip=True), weight + column(*expected))


def test_undilated_shift_moves_one_column_between_3x3_filters():
    weight = np.arange(1.0, 37.0).reshape(4, 1, 3, 3)
    shifted = run(weight, [delta(1, 2)])
    np.testing.assert_array_equal(shifted[0, 0], [[2, 3, 10], [5, 6, 13], [8, 9, 16]])
    np.testing.assert_array_equal(shifted[1, 0], [[11, 12, 0], [14, 15, 0], [17, 18, 0]])
    np.testing.assert_array_equal(shifted[2, 0], [[20, 21, 28], [23, 24, 31], [26, 27, 34]])
    np.testing.assert_array_equal(run(weight, [delta(2, 1)])[0, 0], [[4, 5, 6], [7, 8, 9], [19, 20, 21]])


def test_dilation_of_the_kernel_size_moves_whole_filters():
    a, b, c, d = weight = np.arange(1.0, 37.0).reshape(4, 1, 3, 3)
    zero = np.zeros_like(a)
    right, below = delta(1, 2), delta(2, 1)
    np.testing.assert_array_equal(run(weight, [right], super_dilation=(3, 3)), [b, zero, d, zero])
    np.testing.assert_array_equal(run(weight, [below], super_dilation=(3, 3)), [c, d, zero, zero])
    # Only the dilation along its own axis moves a tap: here by 1, although the other axis has dilation 3.
    np.testing.assert_array_equal(run(weight, [right], super_dilation=(3, 1)), run(weight, [right]))
    np.testing.assert_array_equal(run(weight, [below], super_dilation=(1, 3)), run(weight, [below]))


def test_rectangular_kernels_shift_along_their_long_axis():
    weight = np.arange(1.0, 13.0).reshape(4, 1, 1, 3)  # the tile is 2 x 6: [1..6], [7..12] cut into threes
    right = np.zeros((1, 1, 1, 5))
    right[..., 4] = 1.0
    np.testing.assert_array_equal(run(weight, [right])[:, 0, 0], [[3, 4, 5], [6, 0, 0], [9, 10, 11], [12, 0, 0]])


def test_nine_filters_form_a_tile_of_three_by_three():
    filters = run(column(*range(1, 10)), [delta(2, 1)], association=3)
    np.testing.assert_array_equal(filters, column(4, 5, 6, 7, 8, 9, 0, 0, 0))


def test_association_1_mixes_nothing_across_filters():
    weight = np.random.default_rng(0).normal(size=(3, 2, 3, 3))
    ones = np.ones((3, 1, 3, 3))
    alone = run(weight, [ones], association=1, share='ci')
    for index in range(3):
        single = run(weight[index : index + 1], [ones[:1]], association=1, share='ci')
        np.testing.assert_array_equal(alone[index : index + 1], single)
    np.testing.assert_allclose(alone[:, :, 1, 1], weight.sum(axis=(2, 3)), atol=1e-14)


@pytest.mark.parametrize(
    ('out_channels', 'groups', 'expected'),
    [
        (5, 1, [[0, 1, 2, 3], [4, None, None, None]]),
        (3, 1, [[0, 1, 2, None]]),
        (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (10, 2, [[0, 1, 2, 3], [4, None, None, None], [5, 6, 7, 8], [9, None, None, None]]),
        (6, 2, [[0, 1, 2, 3], [4, 5, None, None]]),
        (6, 6, [[0, 1, 2, 3], [4, 5, None, None]]),
    ],
)
def test_filters_are_split_into_association_groups(out_channels, groups, expected):
    assert association_groups(out_channels, groups, association=2) == expected


@pytest.mark.parametrize(
    ('groups', 'expected'),
    [
        # 1..5 and 6..10 are separate: tiles [1 2; 3 4], [5 .; . .], [6 7; 8 9], [10 .; . .], each read from the right
        (2, [2, 0, 4, 0, 0, 7, 0, 9, 0, 0]),
        # 10 depthwise filters in one run: [1 2; 3 4], [5 6; 7 8], [9 10; . .]
        (10, [2, 0, 4, 0, 6, 0, 8, 0, 10, 0]),
    ],
)
def test_filters_of_separate_convolution_groups_do_not_mix(groups, expected):
    weight = column(*range(1, 11))
    np.testing.assert_array_equal(run(weight, [delta(1, 2)], groups=groups), column(*expected))
    # 'ci' has one super kernel per association group: scale group g by g + 1.
    n_groups = 4 if groups == 2 else 3
    scales = np.arange(1.0, n_groups + 1).reshape(-1, 1, 1, 1)
    of_filter = [1, 1, 1, 1, 2, 3, 3, 3, 3, 4] if groups == 2 else [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    scaled = run(weight, [scales * delta(1, 1)], groups=groups, share='ci')
    np.testing.assert_array_equal(scaled, weight * column(*of_filter))


def test_missing_filters_are_reset_to_zero_before_the_second_layer():
    fives = (np.zeros((1, 1, 3, 3)), np.array([5.0]))
    sums = (np.ones((1, 1, 3, 3)), None)
    kernel = run(column(1, 2, 3), [fives[0], sums[0]], [fives[1], sums[1]])
    np.testing.assert_array_equal(kernel, column(15, 15, 15))  # 20 if the missing filter kept the bias


def test_each_skip_connection_adds_the_input_of_its_own_layer():
    kernel = run(column(1, 2, 3, 4), [delta(1, 2), delta(2, 1)], skip=True)
    # [[1, 2], [3, 4]] -> + [[2, 0], [4, 0]] = [[3, 2], [7, 4]] -> + [[7, 4], [0, 0]] = [[10, 6], [7, 4]]
    np.testing.assert_array_equal(kernel, column(10, 6, 7, 4))


def test_share_selects_the_super_kernel():
    weight = np.stack([column(1, 2, 3, 4, 5, 6, 7, 8)[:, 0], 10 * column(1, 2, 3, 4, 5, 6, 7, 8)[:, 0]], axis=1)
    first, second = weight[:, :1], weight[:, 1:]
    ci = run(weight, [np.array([2.0, 3.0]).reshape(2, 1, 1, 1)], [np.array([100.0, 200.0])], share='ci')
    np.testing.assert_array_equal(ci, np.concatenate([2 * weight[:4] + 100, 3 * weight[4:] + 200]))
    co = run(weight, [np.array([2.0, 3.0]).reshape(2, 1, 1, 1)], [np.array([100.0, 200.0])], share='co')
    np.testing.assert_array_equal(co, np.concatenate([2 * first + 100, 3 * second + 200], axis=1))
    cico = run(weight, [np.full((1, 1, 1, 1), 2.0)], [np.array([100.0])], share='cico')
    np.testing.assert_array_equal(cico, 2 * weight + 100)
    dense = np.array([[2.0, 3.0], [5.0, 7.0]]).reshape(2, 2, 1, 1)  # row: output channel, column: input channel
    none = run(weight, [dense], [np.array([100.0, 200.0])], share=None)
    expected = [2 * first + 3 * second + 100, 5 * first + 7 * second + 200]
    np.testing.assert_array_equal(none, np.concatenate(expected, axis=1))


def test_super_norm_spans_all_groups_of_one_input_channel():
    values = np.arange(1.0, 9.0)
    weight = np.concatenate([column(*values), column(*(10 * values))], axis=1)
    ones = np.concatenate([delta(1, 1)] * 2)
    normed = run(weight, [ones], share='ci', super_norm='ln')
    np.testing.assert_allclose(normed[:, 0, 0, 0], (values - 4.5) / math.sqrt(5.25 + EPS), rtol=1e-12)
    np.testing.assert_allclose(normed[:, 1, 0, 0], (10 * values - 45) / math.sqrt(525 + EPS), rtol=1e-12)

    scale = np.arange(1.0, 9.0).reshape(2, 2, 2)  # entry (g, row, column) belongs to filter 4 g + 2 row + column
    shift = 100 * scale
    affine = run(weight, [ones], share='ci', super_norm='ln', norm_affine=[(scale, shift)], skip=True)
    expected = weight + normed * column(*values) + 100 * column(*values)  # the skip is not normed
    np.testing.assert_allclose(affine, expected, rtol=1e-12)


def test_super_norm_includes_the_positions_of_missing_filters():
    normed = run(column(1, 2, 3), [delta(1, 1)], share='ci', super_norm='ln')
    np.testing.assert_allclose(normed, column(*[(v - 1.5) / math.sqrt(1.25 + EPS) for v in (1, 2, 3)]), rtol=1e-12)


def test_super_kernels_are_standardised_per_output_channel():
    # A 3x3 delta times 9 has mean 1, squared deviations 8 * 1 + 64 = 72 in sum, unbiased variance 9; bias stays.
    kernel = run(column(1, 2, 3, 4), [9 * delta(1, 1)], [np.array([50.0])], super_standardize=True)
    expected = [50 + (8 * v - (10 - v)) / (3 + EPS) for v in (1, 2, 3, 4)]
    np.testing.assert_allclose(kernel, column(*expected), rtol=1e-12)

    # For share=None the statistics span the input channels: [1, 3] has mean 2 and unbiased std sqrt(2).
    dense = np.array([[1.0, 3.0], [0.0, 8.0]]).reshape(2, 2, 1, 1)
    weight = np.concatenate([column(1, 2, 3, 4), column(10, 20, 30, 40)], axis=1)
    kernel = run(weight, [dense], share=None, super_standardize=True)
    expected = np.array([-1, 1]) / (math.sqrt(2) + EPS), np.array([-4, 4]) / (math.sqrt(32) + EPS)
    np.testing.assert_allclose(kernel[:, 0, 0, 0], weight[:, :, 0, 0] @ expected[0], rtol=1e-12)
    np.testing.assert_allclose(kernel[:, 1, 0, 0], weight[:, :, 0, 0] @ expected[1], rtol=1e-12)


def test_each_filter_is_standardised_or_normalised_last():
    weight = np.array([[[[1.0, 2.0, 3.0]]], [[[0.0, 0.0, 6.0]]]])
    identity = np.ones((1, 1, 1, 1))
    kernel = run(weight, [identity], standardize=True)
    np.testing.assert_allclose(kernel[0, 0, 0], np.array([-1, 0, 1]) / (1 + EPS), rtol=1e-12)
    np.testing.assert_allclose(kernel[1, 0, 0], np.array([-2, -2, 4]) / (math.sqrt(12) + EPS), rtol=1e-12)

    affine = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[10.0, 20.0, 30.0]]])
    kernel = run(weight, [identity], standardize='ln', standardize_affine=affine)
    first = np.array([-1, 0, 3]) / math.sqrt(2 / 3 + EPS) + [10, 20, 30]
    second = np.array([-2, -4, 12]) / math.sqrt(8 + EPS) + [10, 20, 30]
    np.testing.assert_allclose(kernel[:, 0, 0], [first, second], rtol=1e-12)


@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize(('out_channels', 'groups', 'n_groups'), [(6, 1, 2), (10, 2, 4), (6, 6, 2)])
def test_identity_super_kernels_change_nothing_and_association_is_linear(share, out_channels, groups, n_groups):
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(2, out_channels, 2, 3, 3))
    lead = super_shape(share, n_groups, 2)
    options = dict(share=share, groups=groups, super_dilation=(2, 1))
    nothing = np.zeros((*lead, 3, 3))
    identity = nothing.copy()
    identity[:, :, 1, 1] = np.eye(2) if share is None else 1.0
    np.testing.assert_array_equal(run(one, [identity], **options), one)
    np.testing.assert_array_equal(run(one, [nothing] * 2, skip=True, **options), one)
    np.testing.assert_array_equal(run(one, [identity] * 2, skip=True, **options), 4 * one)

    layers = [rng.normal(size=(*lead, 3, 3)) for _ in range(2)]
    for skip in (False, True):
        together = run(2 * one - 3 * two, layers, skip=skip, **options)
        apart = 2 * run(one, layers, skip=skip, **options) - 3 * run(two, layers, skip=skip, **options)
        np.testing.assert_allclose(together, apart, atol=1e-11)


def test_oracle_agrees_with_figure_6_of_the_paper():
    """Steps 1 to 3 of the figure in torch: a grouped convolution with tiles as channels, input channels as batch."""
    torch.manual_seed(0)
    weight = torch.randn(8, 3, 3, 3, dtype=torch.float64)
    conv_super = torch.nn.Conv2d(2, 2, 3, padding=2, dilation=2, groups=2).double()
    tiles = weight.reshape(2, 2, 2, 3, 3, 3).permute(3, 0, 1, 4, 2, 5).reshape(3, 2, 6, 6)
    out = conv_super(tiles).reshape(3, 2, 2, 3, 2, 3).permute(1, 2, 4, 0, 3, 5).reshape(8, 3, 3, 3)
    arrays = to_float64(weight), [to_float64(conv_super.weight)], [to_float64(conv_super.bias)]
    np.testing.assert_allclose(run(*arrays, share='ci', super_dilation=(2, 2)), out.detach().numpy(), atol=1e-13)


@pytest.mark.parametrize(
    ('k', 'skp', 'dilate', 'expected'),
    [
        (3, 0, True, (3, 1)),
        (3, 2, True, (3, 2)),
        (5, 2, True, (5, 2)),
        (7, 6, True, (7, 3)),
        (3, 2, False, (5, 1)),
        (7, 0, False, (7, 1)),
        (1, 2, True, (3, 1)),
        (1, 2, 'paper', (3, 1)),
        # Extents at most 3, 5, 7, 9, 11 and 13; 11 has no dilated kernel that is not sparser than the table's.
        (3, 0, 'paper', (3, 1)),
        (3, 2, 'paper', (3, 2)),
        (3, 4, 'paper', (3, 3)),
        (3, 6, 'paper', (5, 2)),
        (5, 0, 'paper', (3, 2)),
        (5, 2, 'paper', (3, 3)),
        (5, 4, 'paper', (5, 2)),
        (5, 6, 'paper', (5, 2)),
        (7, 0, 'paper', (3, 3)),
        (7, 2, 'paper', (5, 2)),
        (7, 4, 'paper', (5, 2)),
        (7, 6, 'paper', (5, 3)),
    ],
)
def test_super_kernel_geometry_gives_taps_and_dilation(k, skp, dilate, expected):
    assert super_kernel_geometry(k, skp, dilate) == expected


@pytest.mark.parametrize(
    ('k', 'skp', 'dilate'), [(4, 2, True), (3, 1, False), (3, -2, 'paper'), (9, 2, True), (3, 2, 'x')]
)
def test_super_kernel_geometry_rejects_invalid_arguments(k, skp, dilate):
    with pytest.raises(ValueError):
        super_kernel_geometry(k, skp, dilate)


@pytest.mark.parametrize(
    ('kernel', 'options'),
    [
        ((3, 3), dict()),
        ((3, 2), dict(stride=2, padding=1)),
        ((1, 3), dict(stride=(1, 2), padding=(0, 2), dilation=(1, 2))),
        ((3, 3), dict(padding=(3, 1), dilation=(2, 1), groups=2)),
        ((3, 3), dict(padding=1, groups=4)),
    ],
)
@pytest.mark.parametrize('bias', [False, True])
def test_conv2d_loop_agrees_with_torch(kernel, options, bias):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64, generator=generator)
    w = torch.randn(4, 4 // options.get('groups', 1), *kernel, dtype=torch.float64, generator=generator)
    b = torch.randn(4, dtype=torch.float64, generator=generator) if bias else None
    expected = torch.nn.functional.conv2d(x, w, b, **options).numpy()
    actual = conv2d_loop(to_float64(x), to_float64(w), None if b is None else to_float64(b), **options)
    np.testing.assert_allclose(actual, expected, atol=1e-13)
