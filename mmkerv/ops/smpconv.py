r"""Self-moving point convolution: a large kernel interpolated from points that move, beside the basic kernel.

K[r, c] = sum_j w_j g_j(r, c) / Z(r, c), g_j = max(0, 1 - |u - p_j|_1 / rho_j). Kim and Park, "SMPConv: Self-moving
Point Representations for Continuous Convolution", CVPR 2023, equations 3 to 5.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.branches import Branch, Branches, ParallelBranch
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.geometry import holds, odd
from mmkerv.ops.core.limits import within
from mmkerv.ops.core.precision import full_precision, wide_type


class SMPOptions(NamedTuple):
    """Arguments of :class:`SMPConv2d` beyond those of torch's convolutions.

    Example:
        >>> SMPOptions(points=16, share=False, average=True).checked().points
        16
    """

    points: int | None = None
    radius: float | None = None
    share: bool = True
    average: bool = False
    positions_std: float = 0.2
    kernel_extent: Any = None
    branch_norm: str | None = 'bn'

    def checked(self) -> 'SMPOptions':
        """Return the options if each value is valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> SMPOptions(radius=0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: radius must be > 0, got 0
        """
        if self.points is not None:
            arguments.integer(self.points, 'points', 1)
        if self.radius is not None:
            arguments.real(self.radius, 'radius', 0.0, above=True)
        arguments.boolean(self.share, 'share')
        arguments.boolean(self.average, 'average')
        arguments.real(self.positions_std, 'positions_std', 0.0, above=True)
        if self.kernel_extent is not None:
            odd(arguments.integers(self.kernel_extent, 2, 'kernel_extent', 1), 'kernel_extent')
        arguments.one_of(self.branch_norm, 'branch_norm', ('bn', None))
        return self


def point_kernel(
    values: Tensor, positions: Tensor, radius: Tensor, size: tuple[int, int], average: bool = False
) -> Tensor:
    r"""Interpolate a kernel from points: :math:`K_{rc} = \sum_j w_j g_j(r, c) / Z(r, c)`.

    :math:`g_j = \max(0, 1 - (|u_r - p_{j,row}| + |u_c - p_{j,column}|) / \rho_j)` with u evenly spaced in [-1, 1]; the
    term of an axis of one tap is 0.

    Args:
        values: w, (O, I, n).
        positions: p in [-1, 1], (2, G, n), rows (downwards), then columns; G is O, or 1 for all the same.
        radius: rho, (G, n).
        size: number of rows and columns of the kernel.
        average: divide by the number Z of points that reach a tap; otherwise Z = 1.

    Returns:
        K, (O, I, *size).

    Example:
        >>> point_kernel(torch.ones(1, 1, 1), torch.zeros(2, 1, 1), torch.ones(1, 1), (1, 5)).flatten()
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000])
    """
    distance = 0
    for axis, taps in enumerate(size):
        grid = torch.linspace(-1, 1, taps, dtype=values.dtype, device=values.device)
        # On an axis of one tap every point is at its tap: a distance there could keep it from all of the others.
        grid = grid if taps > 1 else positions[axis][..., None, None].detach()
        grid = grid.view(-1, 1) if axis == 0 and taps > 1 else grid
        distance = distance + (grid - positions[axis][..., None, None]).abs()
    weights = (1 - distance / radius[..., None, None]).clamp(min=0)
    if average:
        weights = weights / ((weights > 0).sum(1, keepdim=True) + 1e-6)
    weights = weights.flatten(2)
    # Explicit 2-D and batched products: how `matmul` multiplies (O, I, n) by (1, n, taps) depends on `requires_grad`,
    # and the kernel folded without gradients would differ from that of training in the last bit.
    product = values.flatten(0, 1).mm(weights[0]) if len(weights) == 1 else values.bmm(weights)
    # Not `unflatten`, which ONNX has from opset 13 on.
    return product.reshape(*values.shape[:2], *size)


class SMPConv2d(Branches, Conv2d):
    r"""Self-moving point convolution: a large kernel interpolated from moving points, beside the basic kernel.

    :math:`y = n(x * W) + n_L(x * K_{smp}) + b` with :func:`point_kernel`, each n a batch norm or a scale per channel

    x (N, C, H, W), y (N, O, H', W'), W (O, C/groups, kH, kW) the basic kernel, :math:`K_{smp}` (O, C/groups, D, D) with
    D = ``kernel_extent``. In evaluation it computes one convolution with :meth:`kernel`, which :meth:`to_conv2d`
    returns.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``.
        points: number n of points; D * D // 4 by default.
        radius: initial rho, in halves of the kernel's extent, > 0; 4 / D by default. It is kept at one grid step, 2 /
            (D - 1), or more: a smaller point could lie between all taps, where it has no gradient.
        share: one set of points for the whole layer, as in the paper's ImageNet networks; otherwise one set for each
            output channel.
        average: divide by the number of points that reach a tap, as in the paper's networks for CIFAR and sequences.
        positions_std: standard deviation of the initial positions.
        kernel_extent: size D of the large kernel, odd, one integer or two; the padding becomes padding + dilation * (D
            - kernel_size) // 2. ``kernel_size`` by default.
        branch_norm: ``'bn'``: a batch norm after each branch, as in the paper; ``None``: a learned scale for each
            channel, 1 for W and 0 for the large kernel at the start, so that the layer starts as the plain convolution.

    Attributes:
        positions: p, (2, G, n), rows first, kept within [-1, 1].
        radius: rho, (G, n). The paper trains it with a tenth of the learning rate.
        values: w, (O, C/groups, n).

    Raises:
        ValueError: if a value is invalid, or there is no padding for ``kernel_extent``.
        TypeError: if an argument is unknown or has the wrong type.

    Source: SMPConv, CVPR 2023, equations 3 to 5.

    Example:
        >>> conv = SMPConv2d(8, 8, 5, padding=2, groups=8, kernel_extent=13)
        >>> conv(torch.randn(2, 8, 15, 15)).shape, conv.values.shape, conv.eval().kernel().shape
        (torch.Size([2, 8, 15, 15]), torch.Size([8, 1, 42]), torch.Size([8, 1, 13, 13]))
    """

    Options = SMPOptions
    short_name = 'smp'
    no_decay = ('branch_scale', 'positions', 'radius')
    lr_mult = {'radius': 0.1}

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the points, and the norms or scales of the two branches.

        Raises:
            ValueError: if the kernel's extent is even, or smaller than ``weight``.

        Example:
            >>> list(SMPConv2d(4, 8, 3, branch_norm=None).own_parameters())
            ['positions', 'radius', 'values', 'basic.branch_scale', 'large.branch_scale']
        """
        holds(odd(self.kernel_size), self.weight.shape[2:])
        options, (height, width) = self.options, self.kernel_size
        points = options.points or max(1, height * width // 4)
        sets = 1 if options.share else self.out_channels
        self.positions = nn.Parameter(torch.empty(2, sets, points, **factory))
        self.radius = nn.Parameter(torch.empty(sets, points, **factory))
        self.values = nn.Parameter(torch.empty(*self.weight.shape[:2], points, **factory))
        self.basic = ParallelBranch(None, self.out_channels, 1, options.branch_norm, 1.0, **factory)
        self.large = ParallelBranch(None, self.out_channels, 1, options.branch_norm, 0.0, **factory)

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Draw the points and their values; start the norms and scales.

        Example:
            >>> SMPConv2d(4, 8, 3).reset_operator_parameters()
        """
        nn.init.trunc_normal_(self.positions, std=self.options.positions_std, a=-1.0, b=1.0)
        nn.init.constant_(self.radius, self.options.radius or 4 / max(self.kernel_size))
        nn.init.trunc_normal_(self.values, std=0.02)
        self.basic.reset_parameters()
        self.large.reset_parameters()

    @property
    def starts_as_identity(self) -> bool:
        """``True`` without norms.

        Example:
            >>> SMPConv2d(4, 8, 3, branch_norm=None).starts_as_identity
            True
        """
        return self.options.branch_norm is None

    def branches(self) -> list[Branch]:
        """Return the two branches: the basic kernel, and the one interpolated from the points.

        Example:
            >>> [tuple(b.kernel.shape[2:]) for b in SMPConv2d(4, 8, 3, padding=1, kernel_extent=9).branches()]
            [(3, 3), (9, 9)]
        """
        return [self.basic.as_branch(self.weight), self.large.as_branch(self._point_kernel())]

    def _point_kernel(self) -> Tensor:
        dtype = wide_type(self.values.dtype)
        step = max([2 / (k - 1) for k in self.kernel_size if k > 1] or [1.0])
        with full_precision(self.values.device):
            radius, positions = within(self.radius, step).to(dtype), within(self.positions, -1.0, 1.0).to(dtype)
            kernel = point_kernel(self.values.to(dtype), positions, radius, self.kernel_size, self.options.average)
        return kernel.to(self.values.dtype)


class SMPConv(PlainFor1x1):
    """Class to name in configs: builds :class:`SMPConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`SMPConv2d`.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`SMPConv2d`.
        TypeError: as :class:`SMPConv2d`.

    Example:
        >>> conv = SMPConv(8, 8, 3, padding=1, groups=8, kernel_extent=9)
        >>> type(conv).__name__, conv.padding, type(SMPConv(8, 8, 1)).__name__
        ('SMPConv2d', (4, 4), 'Conv2d')
    """

    operator = SMPConv2d
