"""Shapes of the kernels in the chain of a low-rank convolution, and layers that take lower ranks from a checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmkerv.utils import log


def chain_shapes(
    decomposition: str,
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int],
    groups: int,
    ranks: tuple[int, int],
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the kernels, in the order in which they are applied.

    Args:
        decomposition: ``'tucker2'``, ``'cp3'`` or ``'cp4'``.
        in_channels: of the convolution.
        out_channels: likewise.
        kernel_size: likewise.
        groups: likewise.
        ranks: r_in and r_out.

    Example:
        >>> chain_shapes('tucker2', 8, 16, (3, 3), 2, (3, 4))
        {'first': (6, 4, 1, 1), 'core': (8, 3, 3, 3), 'last': (16, 4, 1, 1)}
    """
    inner, outer = ranks
    first = {'first': (groups * inner, in_channels // groups, 1, 1)}
    last = {'last': (out_channels, outer, 1, 1)}
    rows, columns = kernel_size
    if max(kernel_size) == 1:
        return {**first, **last}
    if decomposition == 'tucker2':
        return {**first, 'core': (groups * outer, inner, rows, columns), **last}
    if decomposition == 'cp3':
        return {**first, 'core': (groups * outer, 1, rows, columns), **last}
    spatial = {'vertical': (groups * outer, 1, rows, 1), 'horizontal': (groups * outer, 1, 1, columns)}
    return {**first, **spatial, **last}


def put(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a Parameter a value of another shape; it stays the same object, which optimizers know, without a gradient.

    Example:
        >>> import torch
        >>> parameter = nn.Parameter(torch.ones(2)); put(parameter, torch.zeros(3)); parameter.shape, parameter.dtype
        (torch.Size([3]), torch.float32)
    """
    parameter.grad = None
    # A graph that is still alive keeps an accumulator of gradients of the former shape, which torch drops if the type
    # changes.
    parameter.data = parameter.data.new_empty(0, dtype=torch.float64 if value.dtype != torch.float64 else torch.float32)
    parameter.data = value


class TakesLowerRanks:
    """Mixin for layers that take the ranks of the weights they load, if these are not above those they were built with.

    So a network whose ranks were truncated in training loads into the one that its config builds.

    Example:
        >>> from mmkerv.ops import LowRankConv2d
        >>> layer = LowRankConv2d(8, 8, 3, rank=8)
        >>> layer.load_state_dict(LowRankConv2d(8, 8, 3, rank=(2, 3)).state_dict()); layer.ranks
        <All keys matched successfully>
        (2, 3)
    """

    ranks: tuple[int, int]
    # Ranks that the arguments of the constructor give.
    built_ranks: tuple[int, int]

    def _kernels(self, ranks: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the keys and shapes of the kernels for some ranks."""
        raise NotImplementedError(f'{type(self).__name__} must implement _kernels')

    def _resize(self, ranks: tuple[int, int]) -> None:
        """Give the kernels the shapes of some ranks, with no values; the Parameters stay the same objects."""
        raise NotImplementedError(f'{type(self).__name__} must implement _resize')

    def keys_of_other_ranks(self, state_dict: Mapping[str, Any], prefix: str) -> list[str]:
        """Return the keys of the kernels if they are of other ranks, which the layer would take when it loads them.

        Args:
            state_dict: weights of a network.
            prefix: of the layer's keys.

        Example:
            >>> from mmkerv.ops import LowRankConv2d
            >>> small, large = (LowRankConv2d(8, 8, 3, rank=rank) for rank in (4, 8))
            >>> large.keys_of_other_ranks(small.state_dict(), ''), small.keys_of_other_ranks(large.state_dict(), '')
            (['first', 'core', 'last'], [])
        """
        ranks = self._ranks_in(state_dict, prefix)
        return [f'{prefix}{name}' for name in self._kernels(ranks)] if ranks not in (None, self.ranks) else []

    def _ranks_in(self, state_dict: Mapping[str, Any], prefix: str) -> tuple[int, int] | None:
        """Return the ranks of the kernels in a state dict if the layer can take them, else ``None``."""
        names = list(self._kernels(self.ranks))
        kernels = {name: state_dict.get(f'{prefix}{name}') for name in names}
        if not all(isinstance(kernel, Tensor) and kernel.dim() == 4 for kernel in kernels.values()):
            return None
        ranks = len(kernels[names[0]]) // self.groups, kernels[names[-1]].shape[1]
        if not all(1 <= rank <= built for rank, built in zip(ranks, self.built_ranks)):
            return None
        fits = all(tuple(kernels[name].shape) == shape for name, shape in self._kernels(ranks).items())
        return ranks if fits else None

    def _take_ranks(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Resize the kernels to those of a state dict, with a log line, if they are of other ranks."""
        ranks = self._ranks_in(state_dict, prefix)
        if ranks not in (None, self.ranks):
            log(
                f'mmkerv: {prefix.removesuffix(".") or type(self).__name__} takes ranks {ranks} of the checkpoint; '
                f'its arguments give {self.built_ranks}'
            )
            self._resize(ranks)


class LowRankChain(TakesLowerRanks, nn.Sequential):
    """Plain convolutions of a folded :class:`LowRankConv2d`, which take lower ranks when they load them.

    Args:
        operator: layer whose chain it is.

    Example:
        >>> from mmkerv.ops import LowRankConv2d
        >>> chain = LowRankChain(LowRankConv2d(8, 8, 3, rank=8))
        >>> _ = chain.load_state_dict(LowRankConv2d(8, 8, 3, rank=2).to_conv2d().state_dict())
        >>> chain(torch.ones(1, 8, 3, 3)).shape, [conv.out_channels for conv in chain]
        (torch.Size([1, 8, 1, 1]), [2, 2, 8])
    """

    def __init__(self, operator: Any):
        super().__init__(*operator.to_conv2d())
        self.decomposition = operator.options.decomposition
        self.in_channels, self.out_channels = operator.in_channels, operator.out_channels
        self.kernel_size, self.groups = operator.kernel_size, operator.groups
        self.ranks = self.built_ranks = operator.ranks

    def __getitem__(self, index: Any) -> Any:
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def _kernels(self, ranks: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.groups)
        shapes = chain_shapes(self.decomposition, *sizes, ranks).values()
        return {f'{number}.weight': shape for number, shape in enumerate(shapes)}

    def _resize(self, ranks: tuple[int, int]) -> None:
        self.ranks = ranks
        for conv, shape in zip(self, self._kernels(ranks).values()):
            put(conv.weight, conv.weight.new_empty(shape))
            # The members with taps of a CP are depthwise.
            if conv is not self[0] and conv is not self[-1] and self.decomposition != 'tucker2':
                conv.groups = shape[0]
            conv.out_channels, conv.in_channels = shape[0], shape[1] * conv.groups

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self._take_ranks(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
