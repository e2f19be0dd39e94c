"""Family "branches": several convolutions with norms in training, a single convolution in evaluation."""

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.convolve import convolve
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


class ParallelBranch(nn.Module):
    """One of several parallel kernels: its own kernel, if it has one, and its norm or scale.

    Args:
        shape: shape of the kernel, (O, C/groups, *size), or ``None`` if the operator computes the kernel.
        channels: output channels O.
        dilation: distance between the kernel's taps.
        norm: ``'bn'`` for a batch norm, ``None`` for one scale for each output channel.
        scale: initial value of the scale.
        device: device of the parameters.
        dtype: type of the parameters.

    Example:
        >>> list(ParallelBranch((8, 4, 3, 3), 8, 2, None).state_dict())
        ['weight', 'branch_scale']
    """

    def __init__(
        self,
        shape: tuple[int, ...] | None,
        channels: int,
        dilation: int = 1,
        norm: str | None = None,
        scale: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.dilation, self._initial_scale = dilation, scale
        factory = {'device': device, 'dtype': dtype}
        self.register_parameter('weight', None if shape is None else nn.Parameter(torch.empty(shape, **factory)))
        self.norm = nn.BatchNorm2d(channels, **factory) if norm == 'bn' else None
        self.register_parameter('branch_scale', None if norm else nn.Parameter(torch.empty(channels, **factory)))

    def reset_parameters(self) -> None:
        """Draw the kernel as ``nn.Conv2d`` does; start the norm as usual, the scale at its initial value.

        Example:
            >>> branch = ParallelBranch(None, 2); branch.reset_parameters(); branch.branch_scale.tolist()
            [0.0, 0.0]
        """
        if self.weight is not None:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.norm is not None:
            self.norm.reset_parameters()
        else:
            nn.init.constant_(self.branch_scale, self._initial_scale)

    def as_branch(self, kernel: Tensor | None = None) -> Branch:
        """Return the branch with its own kernel, or with ``kernel``.

        Example:
            >>> ParallelBranch((8, 4, 3, 3), 8, 2).as_branch().dilation
            2
        """
        kernel = self.weight if kernel is None else kernel
        if self.norm is None:
            kernel = self.branch_scale.view(-1, *(1,) * (kernel.dim() - 1)) * kernel
        return Branch(kernel, self.dilation, self.norm)


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

    folds = 'into one plain convolution, with the running statistics of its norms'

    @abstractmethod
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
        if self._frozen_kernel is not None and not self._has_training_part():
            kernel = self._current_kernel()
            return self._convolve(
                input, kernel, self.bias if self._frozen_bias is None else self._frozen_bias.to(kernel.dtype)
            )
        branches = self.branches()
        if not self._takes_batch_statistics(branches):
            return self._convolve(input, self._current_kernel(), self._folded_bias(branches))
        x = padded(input, self.kernel_size, self.padding, self.dilation, self.padding_mode)
        outputs = [self._branch_output(x, branch) for branch in branches]
        y = outputs[0]
        for other in outputs[1:]:
            y = y + other
        if self._frozen_kernel is not None:
            # The running statistics have changed, which a later evaluation in the block uses.
            with torch.inference_mode(False), torch.no_grad():
                self._frozen_kernel, self._frozen_bias = self._forward_kernel(), self._forward_bias()
        return y if self.bias is None else y + self.bias.view(-1, *(1,) * self.dims)

    # Loops over modules are written out: torch.compile of torch 2.1 traces no comprehension over them.
    def _has_training_part(self) -> bool:
        training = False
        for module in self.modules():
            training = training or module.training
        return training

    def _takes_batch_statistics(self, branches: list[Branch]) -> bool:
        taken = False
        for _, _, norm in branches:
            taken = taken or (norm is not None and norm.training)
        return taken

    def _branch_output(self, x: Tensor, branch: Branch) -> Tensor:
        kernel, inner, norm = branch
        x = centred(x, kernel.shape[2:], inner, self.kernel_size, self.dilation)
        dilation = tuple(d * inner for d in self._per_axis(self.dilation))
        y = convolve(x, kernel, None, self.stride, 0, dilation, self.groups)
        if norm is None:
            return y
        return norm(y) if y.dim() == self.dims + 2 else norm(y[None])[0]

    def _kernel(self) -> Tensor:
        total = 0
        for kernel, dilation, norm in self.branches():
            part = embedded(kernel.to(wide_type(kernel.dtype)), dilation, self.kernel_size)
            if norm is not None:
                part = scale_and_shift(norm)[0].view(-1, *(1,) * (kernel.dim() - 1)) * part
            total = total + part
        # The sizes as numbers: the legacy ONNX exporter must know the shape of a kernel.
        return total.reshape(self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _forward_bias(self) -> Tensor | None:
        bias = self._folded_bias(self.branches())
        return None if bias is self.bias else bias

    def _folded_bias(self, branches: list[Branch]) -> Tensor | None:
        shift = None
        with full_precision(self._parameter().device):
            for _, _, norm in branches:
                if norm is not None:
                    shift = scale_and_shift(norm)[1] if shift is None else shift + scale_and_shift(norm)[1]
        if shift is None:
            return self.bias
        return shift.to(self._parameter().dtype) if self.bias is None else self.bias + shift.to(self.bias.dtype)

    def _folded(self, dense: bool) -> nn.Module:
        return self._plain(self.kernel(), self._folded_bias(self.branches()))

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any] | None:
        """Return the ``conv_cfg`` of the folded layer, which has a bias unless ``branch_norm=None``.

        Args:
            conv_cfg: the config that the layer was built with.

        Example:
            >>> from mmkerv.ops import ReparamConv
            >>> ReparamConv.deploy_cfg(dict(type='ReparamConv', preset='unirep', kernel_extent=13))
            {'type': 'mmkerv.FoldedConv', 'kernel_extent': 13, 'with_bias': True}
            >>> ReparamConv.deploy_cfg(dict(type='ReparamConv', preset='replk', branch_norm=None))
        """
        folded = super().deploy_cfg(conv_cfg)
        if conv_cfg.get('branch_norm', 'bn') is None:
            return folded
        return {'type': 'mmkerv.FoldedConv', **(folded or {}), 'with_bias': True}


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
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
