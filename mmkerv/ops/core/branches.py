"""Family "branches": several convolutions with norms in training, a single convolution in evaluation."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.base import CONVOLUTIONS
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.geometry import centred, embedded, padded
from mmkerv.ops.core.precision import full_precision, wide_type
from mmkerv.ops.core.tracing import fx_leaf


class Branch(NamedTuple):
    """One branch: its kernel (O, C/groups, *size), its dilation, and the batch norm after it or ``None``.

    Example:
        >>> Branch(torch.ones(8, 4, 3, 3)).dilation
        1
    """

    kernel: Tensor
    dilation: int = 1
    norm: nn.Module | None = None


class Branches(GeneratedKernel):
    r"""Mixin for an operator that sums branches: :math:`y = \sum_j \mathrm{norm}_j(x * K_j) + b`.

    In evaluation the norms are affine, :math:`\mathrm{norm}_j(z) = s_j z + t_j` with their running statistics, so
    :math:`y = x * K + b'` with :math:`K = \sum_j s_j K_j` and :math:`b' = b + \sum_j t_j`. x (N, C, H, W), K (O,
    C/groups, kH, kW); smaller and dilated kernels are centred in ``kernel_size``.

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`, and implements ``branches``. Without
    norms it behaves like any other generated kernel.

    Example:
        >>> from mmkerv.ops.core.base import Conv2d
        >>> class Twice(Branches, Conv2d):
        ...     def branches(self):
        ...         return [Branch(self.weight), Branch(self.weight[..., 1:2, 1:2])]
        >>> Twice(4, 8, 3)(torch.randn(1, 4, 5, 5)).shape
        torch.Size([1, 8, 3, 3])
    """

    def branches(self) -> list[Branch]:
        """Return the branches; the extent of each differs from ``kernel_size`` by an even number."""
        raise NotImplementedError(f'{type(self).__name__} must implement branches')

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Sum the branches for ``input`` (N, C, H, W), in a single convolution unless a norm uses batch statistics.

        Example:
            >>> from mmkerv.ops.core.base import Conv2d
            >>> class Once(Branches, Conv2d):
            ...     def branches(self):
            ...         return [Branch(self.weight)]
            >>> Once(3, 8, 3, padding=1)(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 5, 5])
        """
        branches = self.branches()
        if not self._takes_batch_statistics(branches):
            return self._convolve(input, self._current_kernel(), self._folded_bias(branches))
        x = padded(input, self.kernel_size, self.padding, self.dilation, self.padding_mode)
        outputs = [self._branch_output(x, branch) for branch in branches]
        y = outputs[0]
        for other in outputs[1:]:
            y = y + other
        return y if self.bias is None else y + self.bias.view(-1, *(1,) * self.dims)

    def _takes_batch_statistics(self, branches: list[Branch]) -> bool:
        # Loops over branches are written out: torch.compile of torch 2.1 traces no comprehension over modules.
        taken = False
        for _, _, norm in branches:
            taken = taken or (norm is not None and norm.training)
        return taken

    def _branch_output(self, x: Tensor, branch: Branch) -> Tensor:
        kernel, inner, norm = branch
        x = centred(x, kernel.shape[2:], inner, self.kernel_size, self.dilation)
        dilation = tuple(d * inner for d in self._per_axis(self.dilation))
        y = CONVOLUTIONS[self.dims](x, kernel, None, self.stride, 0, dilation, self.groups)
        return y if norm is None else norm(y)

    def _kernel(self) -> Tensor:
        total = 0
        for kernel, dilation, norm in self.branches():
            part = embedded(kernel.to(wide_type(kernel.dtype)), dilation, self.kernel_size)
            if norm is not None:
                part = _scale_and_shift(norm)[0].view(-1, *(1,) * (kernel.dim() - 1)) * part
            total = total + part
        return total

    def _folded_bias(self, branches: list[Branch]) -> Tensor | None:
        shift = None
        with full_precision(self._parameter().device):
            for _, _, norm in branches:
                if norm is not None:
                    shift = _scale_and_shift(norm)[1] if shift is None else shift + _scale_and_shift(norm)[1]
        if shift is None:
            return self.bias
        return shift.to(self._parameter().dtype) if self.bias is None else self.bias + shift.to(self.bias.dtype)

    def _folded(self, dense: bool) -> nn.Module:
        return self._plain(self.kernel(), self._folded_bias(self.branches()))


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the scale and shift (O,) that a batch norm applies with its running statistics."""
    if norm.running_var is None:
        raise ArgumentError(
            f'{type(norm).__name__} has no running statistics to fold a branch with; build it with '
            'track_running_stats=True'
        )
    dtype = wide_type(norm.running_var.dtype)
    scale = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.to(dtype)
    shift = -norm.running_mean.to(dtype) * scale
    return scale, shift if norm.bias is None else shift + norm.bias.to(dtype)
