"""The orthogonality loss against the matrix of the convolution, written out."""

import itertools

import pytest
import torch

from mmkerv.ops.losses import orthogonality_loss


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
