"""The orthogonality loss against the matrix of the convolution, written out."""

import itertools

import pytest
import torch

from mmkerv.ops.losses import (
    filter_groups,
    group_orthogonality_loss,
    group_orthogonality_minimum,
    orthogonality_loss,
    orthogonality_minimum,
)


def matrix_loss(kernel: torch.Tensor, stride: tuple, dilation: tuple, groups: int) -> float:
    """Sum of (M M^T - I)^2 over the rows of one output position of each filter, M on a plane without border."""
    outputs, width, *size = kernel.shape
    extent = [d * (k - 1) + 1 for k, d in zip(size, dilation)]
    # Output positions on both sides of the middle one, as far as two filters can meet.
    far = [(e - 1) // s for e, s in zip(extent, stride)]
    plane = [2 * f * s + e for f, s, e in zip(far, stride, extent)]
    rows = {}
    for o, y, x in itertools.product(range(outputs), range(2 * far[0] + 1), range(2 * far[1] + 1)):
        row = torch.zeros(width * groups, *plane, dtype=kernel.dtype)
        group = o // (outputs // groups)
        for i, a, b in itertools.product(range(width), range(size[0]), range(size[1])):
            place = (group * width + i, y * stride[0] + a * dilation[0], x * stride[1] + b * dilation[1])
            row[place] = kernel[o, i, a, b]
        rows[o, y, x] = row.flatten()
    middle = [(o, far[0], far[1]) for o in range(outputs)]
    pairs = itertools.product(middle, rows)
    return sum(float((rows[one] @ rows[other] - float(one == other)) ** 2) for one, other in pairs)


@pytest.mark.parametrize('stride', [(1, 1), (2, 2), (1, 2), (3, 3), (4, 4)], ids=str)
@pytest.mark.parametrize(
    ('shape', 'groups'),
    [((3, 2, 3, 3), 1), ((4, 2, 3, 3), 2), ((4, 1, 3, 3), 4), ((6, 1, 2, 3), 3), ((3, 4, 1, 1), 1), ((2, 1, 5, 3), 1)],
    ids=str,
)
def test_is_the_distance_of_the_matrix(shape, groups, stride):
    kernel = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = matrix_loss(kernel, stride, (1, 1), groups)
    assert float(orthogonality_loss(kernel, stride, (1, 1), groups)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(('stride', 'dilation'), [((1, 1), (2, 2)), ((2, 1), (1, 3)), ((3, 3), (2, 2))])
def test_dilated_kernels(stride, dilation):
    kernel = torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = matrix_loss(kernel, stride, dilation, 1)
    assert float(orthogonality_loss(kernel, stride, dilation, 1)) == pytest.approx(expected, rel=1e-10)


def test_pointwise_is_the_distance_of_the_gram_matrix():
    weight = torch.randn(3, 5, 1, 1, dtype=torch.float64)
    gram = weight[..., 0, 0] @ weight[..., 0, 0].T
    expected = (gram - torch.eye(3, dtype=torch.float64)).square().sum()
    assert torch.allclose(orthogonality_loss(weight, (1, 1), (1, 1), 1), expected)


def test_public_codes_two_misses():
    """Padding 1 for every kernel misses shifts by 2 at stride 1, and the zero shift at stride 2."""
    ends = torch.zeros(1, 1, 1, 3)
    ends[..., 0] = ends[..., 2] = 0.5**0.5
    assert float(orthogonality_loss(ends, (1, 1), (1, 1), 1)) == pytest.approx(0.5)
    delta = torch.zeros(1, 1, 3, 3)
    delta[..., 1, 1] = 1
    assert float(orthogonality_loss(delta, (2, 2), (1, 1), 1)) == 0


def test_gradcheck():
    kernel = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: orthogonality_loss(k, (2, 1), (1, 1), 2), kernel)


def test_groups_must_divide():
    with pytest.raises(ValueError, match='groups must divide the 4 filters'):
        orthogonality_loss(torch.zeros(4, 1, 1, 1), (1, 1), (1, 1), 3)


MINIMA = {
    # Out and in channels, kernel size, stride, dilation, groups, and the minimum.
    '1x1 stride 2': (8, 4, (1, 1), (2, 2), (1, 1), 1, 4),
    '3x3': (20, 2, (3, 3), (1, 1), (1, 1), 1, 18),
    '3x3 stride 4': (24, 2, (3, 3), (4, 4), (1, 1), 1, 6),
    'groups': (12, 4, (1, 3), (1, 1), (1, 1), 2, 8),
    # With a stride of 2, taps at a distance of 2 meet at every shift; at a distance of 3 at every second one.
    'dilation 2': (6, 1, (3, 3), (2, 2), (2, 2), 1, 5),
    'dilation 3': (6, 1, (3, 3), (2, 2), (3, 3), 1, 2),
}


def least(loss, shape):
    """Value of a loss after LBFGS from a random kernel."""
    kernel = 0.3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel.requires_grad_()
    optimizer = torch.optim.LBFGS([kernel], max_iter=500, line_search_fn='strong_wolfe', tolerance_change=1e-12)

    def closure():
        optimizer.zero_grad()
        value = loss(kernel)
        value.backward()
        return value

    optimizer.step(closure)
    return float(loss(kernel))


@pytest.mark.parametrize('name', MINIMA)
def test_the_minimum_is_reached_and_not_passed(name):
    outputs, inputs, size, stride, dilation, groups, expected = MINIMA[name]
    assert orthogonality_minimum(outputs, inputs, size, stride, dilation, groups) == expected
    assert orthogonality_minimum(inputs, inputs, size, stride, dilation, groups) == 0
    reached = least(lambda k: orthogonality_loss(k, stride, dilation, groups), (outputs, inputs // groups, *size))
    assert expected - 1e-9 < reached < expected + 0.05


def naive_groups(kernel, groups, number, mode):
    """Loops over the sets of filters, and over pairs of each."""
    total = 0.0
    for part in kernel.flatten(1).chunk(groups):
        size = len(part) // number
        first = [[g * size + i for i in range(size)] for g in range(number)]
        sets = first if mode == 'inter' else [list(members) for members in zip(*first)]
        for members in sets:
            for i in members:
                for j in members:
                    total += (float(part[i] @ part[j]) - (i == j)) ** 2
    return total


@pytest.mark.parametrize('mode', ['inter', 'intra'])
@pytest.mark.parametrize(
    ('shape', 'groups', 'number'),
    [((8, 2, 3, 3), 1, 2), ((12, 1, 1, 2), 2, 3), ((12, 1, 1, 1), 1, 1), ((6, 1, 2, 1), 1, 6), ((4, 1, 3, 3), 4, 1)],
    ids=str,
)
def test_groups_of_filters_against_loops(shape, groups, number, mode):
    kernel = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = float(group_orthogonality_loss(kernel, groups, number, mode))
    assert found == pytest.approx(naive_groups(kernel, groups, number, mode), rel=1e-10)
    size = (shape[0], shape[1] * groups, shape[2:], groups, number, mode)
    assert least(lambda k: group_orthogonality_loss(k, groups, number, mode), shape) == pytest.approx(
        group_orthogonality_minimum(*size), abs=1e-4
    )


def test_published_numbers_of_groups():
    kernel = torch.arange(16, dtype=torch.float64).view(4, 4, 1, 1) / 10
    numbers = {('inter', 2): 102.032, ('intra', 2): 67.088, ('inter', 1): 131.680, ('intra', 4): 131.680}
    for (mode, number), expected in numbers.items():
        assert float(group_orthogonality_loss(kernel, 1, number, mode)) == pytest.approx(expected)


@pytest.mark.parametrize(('shape', 'groups'), [((4, 2, 3, 3), 1), ((8, 1, 3, 3), 4), ((20, 2, 3, 3), 1)], ids=str)
def test_one_group_is_the_term_of_all_shifts_at_shift_0(shape, groups):
    """With a stride of the kernel's size no other shift is left."""
    kernel = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zero = float(orthogonality_loss(kernel, (3, 3), (1, 1), groups))
    assert float(group_orthogonality_loss(kernel, groups)) == pytest.approx(zero)
    assert float(orthogonality_loss(kernel, (1, 1), (1, 1), groups)) > zero


def test_gradcheck_of_groups():
    for shape, mode in (((4, 2, 3, 3), 'inter'), ((8, 1, 1, 2), 'intra')):
        kernel = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda k, mode=mode: group_orthogonality_loss(k, 1, 2, mode), kernel)


def test_groups_of_filters_divide_them():
    assert [filter_groups(720, 32), filter_groups(3, 32), filter_groups(1, 9)] == [30, 3, 1]
    # Three filters, for which the public code divides by zero.
    assert float(group_orthogonality_loss(torch.zeros(3, 1, 1, 1), 1, 32)) == 3
    with pytest.raises(ValueError, match='number must be >= 1, got 0'):
        filter_groups(4, 0)
    with pytest.raises(ValueError, match=r"mode must be .*got 'both'"):
        group_orthogonality_loss(torch.zeros(4, 1, 1, 1), 1, 2, 'both')
    with pytest.raises(ValueError, match='groups must divide the 4 filters'):
        group_orthogonality_loss(torch.zeros(4, 1, 1, 1), 3)
