"""How far a convolution is from orthogonal rows: the self-convolution of its kernel at every shift of its stride."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import ArgumentError


def orthogonality_loss(kernel: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    r"""Squared distance of a convolution's rows from orthonormal ones.

    :math:`L = \sum_{s} |\langle K_o, \mathrm{shift}_s K_{o'} \rangle - [o = o', s = 0]|^2`

    over all pairs of filters of a group and all shifts s that are multiples of the stride and at which the two overlap.
    For a 1x1 kernel that is :math:`|W W^T - I|_F^2`. Filters of different groups are orthogonal as they are.

    Args:
        kernel: (O, C/groups, kH, kW).
        stride: step of the window, for each axis.
        dilation: distance of the kernel's taps, for each axis.
        groups: blocks of channels.

    Returns:
        A scalar, >= 0; 0 says that the convolution keeps the length of what it does not map to 0.

    Raises:
        ValueError: if ``groups`` does not divide the filters.

    Source: Orthogonal Convolutional Neural Networks, CVPR 2020.

    Example:
        >>> delta = torch.zeros(1, 1, 3, 3); delta[..., 1, 1] = 1
        >>> float(orthogonality_loss(delta, (1, 1), (1, 1), 1)), float(orthogonality_loss(2 * delta, (1, 1), (1, 1), 1))
        (0.0, 9.0)
    """
    outputs = len(kernel)
    if outputs % groups:
        raise ArgumentError(f'groups must divide the {outputs} filters of the kernel, got {groups}')
    if any(d != 1 for d in dilation):
        spread = kernel.new_zeros(*kernel.shape[:2], *(d * (k - 1) + 1 for k, d in zip(kernel.shape[2:], dilation)))
        spread[:, :, :: dilation[0], :: dilation[1]] = kernel
        kernel = spread
    # The largest shift that is a multiple of the stride and at which two filters still overlap.
    reach = [(k - 1) // s * s for k, s in zip(kernel.shape[2:], stride)]
    # Filter n of every group is one image, so that a grouped convolution meets each with the filters of its own group.
    images = kernel.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)
    products = F.conv2d(images, kernel, None, tuple(stride), reach, 1, groups)
    centre = [r // s for r, s in zip(reach, stride)]
    own = products[:, :, centre[0], centre[1]].unflatten(1, (groups, -1))
    identity = torch.eye(outputs // groups, dtype=kernel.dtype, device=kernel.device)[:, None]
    return products.square().sum() - own.square().sum() + (own - identity).square().sum()
