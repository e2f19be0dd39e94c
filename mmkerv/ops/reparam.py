r"""Re-parameterized convolution: parallel branches of several sizes and dilations, one convolution after folding.

y = norm(x * W) + norm(x * L) + sum_j norm(x * D_j(W_j)) + b, in evaluation y = x * K + b'. Ding et al., "Scaling Up
Your Kernels to 31x31" (RepLKNet), CVPR 2022, section 3; "UniRepLKNet", CVPR 2024, section 3.1; "RepVGG", CVPR 2021; Liu
et al., "More ConvNets in the 2020s" (SLaK), ICLR 2023.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.branches import Branch, Branches, ParallelBranch
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.geometry import embedded, holds, odd

# (kernel size, dilation) of the small branches beside a kernel of this extent, UniRepLKNet's table.
UNIREP = {
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 2), (3, 3)),
    5: ((3, 1), (3, 2)),
}
PRESETS = ('replk', 'unirep', 'slak', 'repvgg')
IDENTITY = 'identity'


class ReparamOptions(NamedTuple):
    """Arguments of :class:`ReparamConv2d` beyond those of torch's convolutions.

    Example:
        >>> ReparamOptions(preset='unirep').checked().branch_norm
        'bn'
    """

    branches: Any = None
    preset: str | None = None
    kernel_extent: Any = None
    branch_norm: str | None = 'bn'

    def checked(self) -> 'ReparamOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> ReparamOptions(preset='replk', branches=[(3, 1)]).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: give either branches or preset, got branches=[(3, 1)] and preset='replk'
        """
        if self.branches is not None and self.preset is not None:
            raise ArgumentError(
                f'give either branches or preset, got branches={self.branches!r} and preset={self.preset!r}'
            )
        if self.preset is not None:
            arguments.one_of(self.preset, 'preset', PRESETS)
        elif self.branches is not None:
            _checked_branches(self.branches)
        arguments.one_of(self.branch_norm, 'branch_norm', ('bn', None))
        if self.kernel_extent is not None:
            odd(arguments.integers(self.kernel_extent, 2, 'kernel_extent', 1), 'kernel_extent')
        elif self.preset == 'slak':
            raise ArgumentError(
                "preset='slak' puts two stripes of the large size beside the small kernel, so it needs the large size: "
                'set kernel_extent, such as 51'
            )
        return self


class ReparamConv2d(Branches, Conv2d):
    r"""Re-parameterized convolution: parallel kernels of several sizes and dilations that fold into one.

    :math:`y = n(x * W) + n_L(x * L) + \sum_j n_j(x *_{r_j} W_j) + b`, each n a batch norm or a scale for each channel

    x (N, C, H, W), y (N, O, H', W'), W (O, C/groups, kH, kW) the basic kernel, L (O, C/groups, D, D) the large one that
    ``kernel_extent`` adds, W_j the small ones with dilation r_j; all have the same centre, stride and groups. In
    evaluation it computes one convolution with :meth:`kernel`, which :meth:`to_conv2d` returns.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``.
        branches: the small kernels, a sequence of (size, dilation), such as ``[(5, 1), ((1, 5), 2)]``, or
            ``'identity'`` for x itself; dilation * (size - 1) + 1 must not exceed the largest kernel and differ from it
            by an even number.
        preset: ``'replk'``: one 5x5; ``'unirep'``: UniRepLKNet's dilated branches for extents 5, 7, ..., 17;
            ``'slak'``: two stripes D x 5 and 5 x D and no other large kernel; ``'repvgg'``
            (default): a 1x1, and the identity if C = O.
        kernel_extent: size D of an additional large kernel, odd, one integer or two; the padding becomes padding +
            dilation * (D - kernel_size) // 2.
        branch_norm: ``'bn'``: a batch norm after each branch; ``None``: a learned scale for each channel of each
            branch, 1 for W and 0 for the others at the start. The layer then starts as the plain convolution with its
            ``weight``, costs one convolution in training too, and suits small batches.

    Raises:
        ValueError: if a value or a combination is invalid, or a branch does not fit into the largest kernel.
        TypeError: if an argument is unknown or has the wrong type.

    Source: RepLKNet, CVPR 2022; UniRepLKNet, CVPR 2024; SLaK, ICLR 2023; RepVGG, CVPR 2021.

    Example:
        >>> conv = ReparamConv2d(8, 8, 3, padding=1, groups=8, preset='unirep', kernel_extent=13)
        >>> conv(torch.randn(2, 8, 15, 15)).shape, conv.eval().kernel().shape, type(conv.to_conv2d()).__name__
        (torch.Size([2, 8, 15, 15]), torch.Size([8, 1, 13, 13]), 'Conv2d')
    """

    Options = ReparamOptions
    short_name = 'reparam'
    no_decay = ('branch_scale',)

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the norm or scale of ``weight``, the large kernel and the small ones.

        Raises:
            ValueError: if ``weight`` or a branch does not fit into the largest kernel, or the preset has no rule for
                its extent.

        Example:
            >>> list(ReparamConv2d(4, 4, 3, preset='repvgg', branch_norm=None).own_parameters())
            ['basic.branch_scale', 'parallel.k1x1d1.weight', 'parallel.k1x1d1.branch_scale', \
'parallel.identity.branch_scale']
        """
        norm, shape = self.options.branch_norm, self.weight.shape
        holds(self.kernel_size, shape[2:])
        self.basic = ParallelBranch(None, self.out_channels, 1, norm, 1.0, **factory)
        has_large = tuple(shape[2:]) != self.kernel_size and self.options.preset != 'slak'
        large = (*shape[:2], *self.kernel_size)
        self.large = ParallelBranch(large, self.out_channels, 1, norm, **factory) if has_large else None
        self.parallel = nn.ModuleDict()
        for branch in self._small_branches():
            if branch == IDENTITY:
                if self.in_channels != self.out_channels:
                    raise ArgumentError(
                        f"the branch 'identity' needs as many output as input channels, got {self.in_channels} "
                        f'and {self.out_channels}; leave it out'
                    )
                name, kernel, dilation = IDENTITY, None, 1
            else:
                size, dilation = branch
                name, kernel = f'k{size[0]}x{size[1]}d{dilation}', (*shape[:2], *size)
                # Raises for a branch that does not fit.
                embedded(torch.empty(1, 1, *size, device='meta'), dilation, self.kernel_size)
            if name in self.parallel:
                raise ArgumentError(f'branches must differ, got {branch} twice; leave one out')
            self.parallel[name] = ParallelBranch(kernel, self.out_channels, dilation, norm, **factory)

    def _small_branches(self) -> list:
        options = self.options
        if options.branches is not None:
            return _checked_branches(options.branches)
        if options.preset in (None, 'repvgg'):
            return [((1, 1), 1), *([IDENTITY] if self.in_channels == self.out_channels else [])]
        height, width = self.kernel_size
        if options.preset == 'slak':
            return [((height, 5), 1), ((5, width), 1)]
        if options.preset == 'replk':
            return [((5, 5), 1)]
        if height != width or height not in UNIREP:
            raise ArgumentError(
                f"preset='unirep' has branches for square kernels of extent {', '.join(map(str, sorted(UNIREP)))}, got "
                f'{self.kernel_size}; set kernel_extent to one of them, or give branches'
            )
        return _checked_branches(UNIREP[height])

    def reset_operator_parameters(self) -> None:
        """Start all norms as usual, the scale of ``weight`` at 1 and those of the branches at 0; draw their kernels.

        Example:
            >>> ReparamConv2d(4, 8, 3, preset='repvgg').reset_operator_parameters()
        """
        for branch in (self.basic, self.large, *self.parallel.values()):
            if branch is not None:
                branch.reset_parameters()

    @property
    def starts_as_identity(self) -> bool:
        """``True`` without norms.

        Example:
            >>> ReparamConv2d(4, 8, 3, preset='repvgg', branch_norm=None).starts_as_identity
            True
        """
        return self.options.branch_norm is None

    def branches(self) -> list[Branch]:
        """Return the branches: the basic kernel, the large one if there is one, the small ones.

        Example:
            >>> [tuple(b.kernel.shape[2:]) for b in ReparamConv2d(4, 4, 3, preset='repvgg').branches()]
            [(3, 3), (1, 1), (1, 1)]
        """
        result = [self.basic.as_branch(self.weight)]
        if self.large is not None:
            result.append(self.large.as_branch())
        for branch in self.parallel.values():
            result.append(branch.as_branch(self._identity() if branch.weight is None else None))
        return result

    def _identity(self) -> Tensor:
        """Return the 1x1 kernel (O, C/groups, 1, 1) that returns its input."""
        width = self.in_channels // self.groups
        eye = torch.eye(width, dtype=self.weight.dtype, device=self.weight.device)
        return eye.repeat(self.groups, 1)[..., None, None]


class ReparamConv(PlainFor1x1):
    """Class to name in configs: builds :class:`ReparamConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`ReparamConv2d`.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`ReparamConv2d`.
        TypeError: as :class:`ReparamConv2d`.

    Example:
        >>> conv = ReparamConv(8, 8, 3, padding=1, preset='replk', kernel_extent=7, branch_norm=None)
        >>> type(conv).__name__, conv.padding, type(ReparamConv(8, 8, 1, preset='replk')).__name__
        ('ReparamConv2d', (3, 3), 'Conv2d')
    """

    operator = ReparamConv2d


def _checked_branches(branches: Any) -> list:
    """Return the branches as ``'identity'`` or ((height, width), dilation)."""
    rule = "branches must be a sequence of (size, dilation), such as [(5, 1), (3, 2)], or 'identity'"
    if isinstance(branches, str) or not isinstance(branches, Sequence):
        raise ArgumentError(f'{rule}, got {branches!r}')
    result = []
    for branch in branches:
        if branch == IDENTITY:
            result.append(IDENTITY)
        elif isinstance(branch, Sequence) and not isinstance(branch, str) and len(branch) == 2:
            size, dilation = branch
            result.append((arguments.integers(size, 2, 'branches', 1), arguments.integer(dilation, 'branches', 1)))
        else:
            raise ArgumentError(f'{rule}, got {branch!r} in it')
    return result
