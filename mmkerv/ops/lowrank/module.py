r"""Low-rank convolution: a chain of cheap convolutions, equal to one with a kernel of low tensor rank.

Tucker-2: K_oi = sum_pq A_op C_pq B_iq, Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low
Power Mobile Applications", ICLR 2016. CP: K_oi(y, x) = sum_r A_or B_ir H_r(y) V_r(x), Lebedev et al., "Speeding-up
Convolutional Neural Networks Using Fine-tuned CP-Decomposition", ICLR 2015, or with one factor S_r(y, x) for both axes.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmkerv.errors import ArgumentError, CheckpointMismatchError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.ops.core.convolve import convolve
from mmkerv.ops.core.geometry import grouped, memory_format
from mmkerv.ops.core.tracing import fx_leaf
from mmkerv.ops.lowrank.chain import TakesLowerRanks, chain_shapes, put
from mmkerv.ops.lowrank.cp import cp
from mmkerv.ops.lowrank.ranks import Rank, checked_rank, cp_rank, tucker_ranks
from mmkerv.ops.lowrank.truncation import ROUNDING, truncate_cp, truncate_matrix, truncate_tucker
from mmkerv.ops.lowrank.tucker import truncated_svd, tucker2
from mmkerv.ops.separable.base import SeparableKernel
from mmkerv.utils import log

DECOMPOSITIONS = ('tucker2', 'cp3', 'cp4')


class LowRankOptions(NamedTuple):
    """Arguments of :class:`LowRankConv2d` beyond those of torch's convolutions.

    Example:
        >>> LowRankOptions(rank=[8, 16]).checked().rank
        (8, 16)
    """

    decomposition: str = 'tucker2'
    rank: Rank = 0.5

    def checked(self) -> 'LowRankOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> LowRankOptions(rank=2.0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: rank must be in (0, 1] as a fraction of the weights of the plain kernel, or \
an integer >= 1, got 2.0
        """
        arguments.one_of(self.decomposition, 'decomposition', DECOMPOSITIONS)
        return self._replace(rank=checked_rank(self.rank, pairs=self.decomposition == 'tucker2'))


class LowRankConv2d(TakesLowerRanks, SeparableKernel, Conv2d):
    r"""Convolution by a kernel of low tensor rank, computed as a chain of cheaper convolutions.

    :math:`y = \mathrm{conv2d}(x, K, b)`, where in each group of channels K is by ``decomposition``

    * ``'tucker2'``: :math:`K_{oi} = \sum_{pq} A_{op} C_{pq} B_{iq}`, a 1x1, a k x k and a 1x1 convolution;
    * ``'cp3'``: :math:`K_{oi} = \sum_r A_{or} B_{ir} S_r`, with a depthwise k x k convolution in the middle;
    * ``'cp4'``: :math:`K_{oi}(y, x) = \sum_r A_{or} B_{ir} H_r(y) V_r(x)`, with a depthwise k x 1 and a 1 x k one.

    x (N, C, H, W), y (N, O, H', W'), K (O, C/groups, kH, kW). The first 1x1 convolution has no bias, so padding after
    it is padding before it, in every mode; stride, padding and dilation belong to the members that have taps. A 1x1
    kernel becomes two 1x1 convolutions, a product of two matrices. There is no basic kernel: ``weight`` is ``None``. A
    plain ``weight`` that is loaded into the layer is decomposed, and the log says with what error; see
    :meth:`decompose`. Of kernels of lower ranks the layer takes these ranks, see :meth:`truncate`. See
    :meth:`to_conv2d` for folding.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``.
        decomposition: ``'tucker2'``, ``'cp3'`` or ``'cp4'``.
        rank: an integer, the number of channels of the middle of the chain for each group; a fraction in (0, 1] of the
            weights of the plain convolution that the layer may have at most (``1.0`` as many weights, not full rank);
            for ``'tucker2'`` also a pair, the channels that enter the k x k convolution and those that leave it. Ranks
            above the full one are lowered to it.

    Attributes:
        first: B, (groups r_in, C/groups, 1, 1).
        core: C, (groups r_out, r_in, kH, kW), or for ``'cp3'`` S, (groups r, 1, kH, kW).
        vertical: H of ``'cp4'``, (groups r, 1, kH, 1).
        horizontal: V of ``'cp4'``, (groups r, 1, 1, kW).
        last: A, (O, r_out, 1, 1).
        ranks: r_in and r_out.

    Raises:
        ValueError: if a value is invalid.
        TypeError: if an argument is unknown or has the wrong type.

    Example:
        >>> conv = LowRankConv2d(64, 64, 3, padding=1, bias=False, rank=16)
        >>> conv(torch.randn(2, 64, 7, 7)).shape, sum(p.numel() for p in conv.parameters())
        (torch.Size([2, 64, 7, 7]), 4352)
    """

    Options = LowRankOptions
    short_name = 'lowrank'
    takes_1x1 = True
    decomposes_weight = True

    @classmethod
    def leaves_plain(cls, in_channels: int, kernel_size: tuple[int, int], groups: int) -> bool:
        """Return ``True`` for depthwise convolutions, whose filters see one channel each.

        Example:
            >>> LowRankConv2d.leaves_plain(8, (1, 1), groups=1), LowRankConv2d.leaves_plain(8, (3, 3), groups=8)
            (False, True)
        """
        return groups == in_channels

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any]:
        """Return the ``conv_cfg`` of the folded layer: plain convolutions in a row.

        Example:
            >>> LowRankConv2d.deploy_cfg(dict(type='LowRankConv', rank=0.25))
            {'type': 'mmkerv.FoldedConv', 'lowrank': {'rank': 0.25}}
        """
        options = {name: conv_cfg[name] for name in LowRankOptions._fields if name in conv_cfg}
        return {'type': 'mmkerv.FoldedConv', 'lowrank': options}

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Compute the ranks and create the kernels of the chain.

        Example:
            >>> op = LowRankConv2d(4, 8, 3, decomposition='cp4', rank=5)
            >>> op.ranks, list(op.own_parameters())
            ((5, 5), ['first', 'vertical', 'horizontal', 'last'])
        """
        width, outputs = self.in_channels // self.groups, self.out_channels // self.groups
        rank, taps = self.options.rank, math.prod(self.kernel_size)
        if taps == 1:
            rank = min(rank) if isinstance(rank, tuple) else rank
            self.ranks = (cp_rank(rank, (outputs, width)),) * 2
        elif self.options.decomposition == 'tucker2':
            self.ranks = tucker_ranks(rank, width, outputs, taps)
        else:
            sizes = (taps,) if self.options.decomposition == 'cp3' else self.kernel_size
            self.ranks = (cp_rank(rank, (outputs, width, *sizes)),) * 2
        self.built_ranks = self.ranks
        super().make_parameters(factory)

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Draw the kernels uniformly such that the composed one has the variance of a plain convolution's.

        That is 1 / (3 fan_in), as ``nn.Conv2d`` draws its weight: 1 / its fan_in for each kernel, and a third of that
        for the last.

        Example:
            >>> op = LowRankConv2d(64, 64, 3)
            >>> 0.8 < float(op.kernel().var() / nn.Conv2d(64, 64, 3).weight.var()) < 1.2
            True
        """
        super().reset_operator_parameters()
        self.last /= math.sqrt(3)

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, H, W) with each kernel of the chain; returns (N, O, H', W').

        Example:
            >>> LowRankConv2d(3, 8, 3, stride=2)(torch.randn(1, 3, 9, 9)).shape
            torch.Size([1, 8, 4, 4])
        """
        if self._is_matrix():
            x, padding = self._pad(input)
            x = F.conv2d(x, self.first, None, self.stride, padding, self.dilation, self.groups)
            return F.conv2d(x, self.last, self.bias, groups=self.groups)
        x, padding = self._pad(F.conv2d(input, self.first, groups=self.groups))
        if self.options.decomposition == 'cp4':
            stride, dilation, channels = _pair(self.stride), _pair(self.dilation), len(self.vertical)
            x = convolve(x, self.vertical, None, (stride[0], 1), (padding[0], 0), (dilation[0], 1), channels)
            x = convolve(x, self.horizontal, None, (1, stride[1]), (0, padding[1]), (1, dilation[1]), channels)
        else:
            x = convolve(x, self.core, None, self.stride, padding, self.dilation, self._core_groups())
        return F.conv2d(x, self.last, self.bias, groups=self.groups)

    @torch.no_grad()
    def decompose(self, weight: Tensor) -> float:
        """Set the kernels of the chain such that the composed one is near a plain convolution's.

        ``'tucker2'`` by HOSVD and HOOI, the others by alternating least squares with bounded terms, all in float64; a
        1x1 kernel by the truncated singular value decomposition.

        Args:
            weight: (O, C/groups, kH, kW), finite.

        Returns:
            :math:`|K - W| / |W|`, or 0 for a weight of zeros.

        Raises:
            CheckpointMismatchError: if the weight is not finite.

        Example:
            >>> op = LowRankConv2d(8, 8, 3, rank=(8, 8))
            >>> op.decompose(torch.randn(8, 8, 3, 3)) < 1e-6
            True
        """
        values, error = self._decomposed(weight)
        for name, value in values.items():
            getattr(self, name).copy_(value)
        return error

    def _decomposed(self, weight: Tensor, name: str = 'weight') -> tuple[dict[str, Tensor], float]:
        """Return the kernels of the chain for a plain weight, and the relative error of the composed kernel."""
        if not weight.isfinite().all():
            raise CheckpointMismatchError(
                f'{name} of shape {tuple(weight.shape)} holds NaN or infinite numbers and cannot be decomposed; use '
                'a checkpoint from before the training diverged'
            )
        weight = weight.detach().double()
        parts = [self._decomposed_group(kernel) for kernel in weight.chunk(self.groups)]
        shapes = self._shapes()
        values = {
            name: torch.cat(list(kernels)).reshape(shape) for (name, shape), kernels in zip(shapes.items(), zip(*parts))
        }
        norm = weight.norm()
        error = (self._compose(*values.values()) - weight).norm() / norm if norm else norm
        return values, float(error)

    def _decomposed_group(self, kernel: Tensor) -> list[Tensor]:
        """Return the chain's kernels for one channel group, (O/groups, C/groups, kH, kW), in any shape."""
        if self._is_matrix():
            left, right = truncated_svd(kernel.flatten(1), self.ranks[0])
            return [right, left]
        if self.options.decomposition == 'tucker2':
            last, core, first = tucker2(kernel, self.ranks)
            return [first.T, core, last]
        tensor = kernel.flatten(2) if self.options.decomposition == 'cp3' else kernel
        last, first, *spatial = cp(tensor, self.ranks[0])
        return [first.T, *(factor.T for factor in spatial), last]

    @torch.no_grad()
    def truncate(self, tolerance: float, *copies: 'LowRankConv2d') -> float:
        r"""Lower the ranks, in place, as far as the composed kernel stays within a relative error of what it was.

        ``'tucker2'`` by a truncated HOSVD of the core, with the pair of ranks that has the fewest weights; 1x1 kernels
        by a singular value decomposition; a CP by dropping terms, to the rest of which the last kernel is fitted. The
        Parameters stay the same objects and lose their gradients; an optimizer's state has the former shapes and must
        be dropped, as :class:`mmkerv.engine.RankTruncationHook` does.

        Args:
            tolerance: largest :math:`|K' - K| / |K|`, in [0, 1). An error of 1e-6 counts as none.
            *copies: layers of the same ranks that are to stay averages of this one. They get the same change of basis,
                with whatever error that means for them.

        Returns:
            The relative error; 0 if no rank could be lowered. The type of the parameters may be too coarse for the
            tolerance; the layer is left as it is then, too.

        Raises:
            ValueError: for a tolerance out of range.

        Example:
            >>> op = LowRankConv2d(8, 8, 3, rank=(6, 6))
            >>> _ = op.first.data[3:].zero_(); op.truncate(0.0) < 1e-6, op.ranks
            (True, (3, 6))
        """
        arguments.real(tolerance, 'tolerance', 0.0)
        if tolerance >= 1:
            raise ArgumentError(f'tolerance must be < 1, since an error of 1 is a kernel of zeros, got {tolerance}')
        kernels = {name: getattr(self, name).double() for name in self._shapes()}
        kernel = self._compose(*kernels.values())
        if not kernel.isfinite().all() or not kernel.any():
            return 0.0
        first, *spatial, last = kernels.values()
        if self._is_matrix():
            found = truncate_matrix(first, last, self.groups, tolerance)
        elif self.options.decomposition == 'tucker2':
            found = truncate_tucker(first, *spatial, last, self.groups, tolerance)
        else:
            found = truncate_cp(first, spatial, last, self.groups, tolerance)
        if found.ranks == self.ranks:
            return 0.0
        new = {name: found.maps[name](value).to(getattr(self, name).dtype) for name, value in kernels.items()}
        error = float((self._compose(*(value.double() for value in new.values())) - kernel).norm() / kernel.norm())
        if not error <= max(tolerance, ROUNDING):
            return 0.0
        for layer in (self, *copies):
            for name in kernels:
                parameter = getattr(layer, name)
                value = found.maps[name](parameter.double()).to(parameter.dtype)
                put(parameter, value.contiguous(memory_format=memory_format(parameter)))
            layer.ranks = found.ranks
        return error

    def kernel_names(self) -> list[str]:
        """Return the names of the kernels of the chain, in the order in which they are applied.

        Example:
            >>> LowRankConv2d(4, 8, 3).kernel_names()
            ['first', 'core', 'last']
        """
        return list(self._shapes())

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self._take_ranks(state_dict, prefix)
        weight = state_dict.get(f'{prefix}weight')
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        own = [f'{prefix}{name}' for name in self._shapes()]
        if tuple(getattr(weight, 'shape', ())) == shape and not any(name in state_dict for name in own):
            values, error = self._decomposed(weight, f'{prefix}weight')
            # load_state_dict(assign=True) keeps the checkpoint's type; else a half-precision one must not round twice.
            assign = args[0].get('assign_to_params_buffers', False)
            for name, value in values.items():
                state_dict[f'{prefix}{name}'] = value.to(weight.dtype if assign else getattr(self, name).dtype)
            del state_dict[f'{prefix}weight']
            log(f'mmkerv: {prefix}weight decomposed to ranks {self.ranks}, relative error {error:.3g}')
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _is_matrix(self) -> bool:
        return max(self.kernel_size) == 1

    def _core_groups(self) -> int:
        return self.groups if self.options.decomposition == 'tucker2' else len(self.core)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return self._kernels(self.ranks)

    def _kernels(self, ranks: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.groups)
        return chain_shapes(self.options.decomposition, *sizes, ranks)

    def _resize(self, ranks: tuple[int, int]) -> None:
        for name, shape in self._kernels(ranks).items():
            put(parameter := getattr(self, name), parameter.new_empty(shape))
        self.ranks = ranks

    def _compose(self, *kernels: Tensor) -> Tensor:
        first, *spatial, last = kernels
        b, a = grouped(first.flatten(1), 0, self.groups), grouped(last.flatten(1), 0, self.groups)
        if not spatial:
            kernel = (a @ b)[..., None, None]
        elif self.options.decomposition == 'tucker2':
            kernel = torch.einsum('gop,gpqyx,gqi->goiyx', a, grouped(spatial[0], 0, self.groups), b)
        else:
            taps = math.prod(spatial[1:], start=spatial[0]).squeeze(1)
            kernel = torch.einsum('gor,gryx,gri->goiyx', a, grouped(taps, 0, self.groups), b)
        return kernel.flatten(0, 1)

    def _factors(self) -> nn.Sequential:
        pointwise = {'stride': 1, 'padding': 0, 'dilation': 1, 'padding_mode': 'zeros'}
        last = self._plain(self.last, self.bias, **pointwise)
        if self._is_matrix():
            return nn.Sequential(self._plain(self.first, None), last)
        first = self._plain(self.first, None, **pointwise)
        if self.options.decomposition != 'cp4':
            return nn.Sequential(first, self._plain(self.core, None, groups=self._core_groups()), last)
        rows, columns = self._by_axis()
        channels = len(self.vertical)
        return nn.Sequential(
            first,
            self._plain(self.vertical, None, groups=channels, **rows),
            self._plain(self.horizontal, None, groups=channels, **columns),
            last,
        )

    def extra_repr(self) -> str:
        """Return the arguments, the options that differ from their defaults, and the ranks.

        Example:
            >>> LowRankConv2d(4, 8, 3, rank=3).extra_repr()
            '4, 8, kernel_size=(3, 3), stride=(1, 1), rank=3, ranks=(3, 3)'
        """
        return f'{super().extra_repr()}, ranks={self.ranks}'


class LowRankConv(ConfigClass):
    """Class to name in configs: builds :class:`LowRankConv2d`, 1x1 kernels included, or a plain ``nn.Conv2d``.

    Depthwise convolutions, whose filters see one channel each, stay plain.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as :class:`LowRankConv2d`.

    Raises:
        ValueError: as :class:`LowRankConv2d`.
        TypeError: as :class:`LowRankConv2d`.

    Example:
        >>> [type(LowRankConv(8, 8, 3, groups=groups)).__name__ for groups in (1, 2, 8)]
        ['LowRankConv2d', 'LowRankConv2d', 'Conv2d']
    """

    operator = LowRankConv2d
