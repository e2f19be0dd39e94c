"""Sampling grid of continuous kernels: positions from -1 to 1, at the training resolution or another."""

import math
from typing import Any

import torch
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments

# Tolerance for rounding errors: 1 / 3 times 3 must count as 1.
SLACK = 1e-9


def resolution(ratio: Any, sizes: tuple[int, ...], causal: bool = False) -> tuple[float, ...]:
    """Check a resolution, samples at run time per sample in training, and return it for each axis.

    Args:
        ratio: 2 is twice as fine, 0.5 half as fine; one number or one per axis.
        sizes: extent of the kernel in training, for each axis.
        causal: whether the kernel covers only the current and earlier samples.

    Raises:
        ValueError: if a ratio is not > 0, or leaves an axis no sample besides the current one.
        TypeError: if a ratio is not a number.

    Example:
        >>> resolution(2, (7, 5)), resolution((0.5, 1), (7, 5))
        ((2.0, 2.0), (0.5, 1.0))
    """
    ratios = tuple(ratio) if isinstance(ratio, (tuple, list)) else (ratio,) * len(sizes)
    if len(ratios) != len(sizes):
        raise ArgumentError(f'the resolution must be one number or {len(sizes)} of them, got {ratio!r}')
    ratios = tuple(arguments.real(r, 'the resolution', 0.0, above=True) for r in ratios)
    for size, r in zip(sizes, ratios):
        if size > 1 and taps(size, r, causal) == 1:
            raise ArgumentError(
                f'at resolution {r:g} a kernel of {size} samples has none left beside the current one; use a ratio of '
                f'at least 1/{_reach(size, causal)}, or train with a larger kernel'
            )
    return ratios


def taps(size: int, ratio: float, causal: bool = False) -> int:
    """Return the number of samples, at resolution ``ratio``, of a kernel that has ``size`` samples in training.

    Example:
        >>> taps(7, 2.0), taps(7, 0.5), taps(784, 0.5, causal=True)
        (13, 3, 392)
    """
    reach = math.floor(_reach(size, causal) * ratio + SLACK)
    return reach + 1 if causal else 2 * reach + 1


def centred_positions(size: int, ratio: float = 1.0, **factory: Any) -> Tensor:
    r"""Return the positions of a centred kernel along one axis, :math:`p_j = 2 j / (r (k - 1))`, j from -h to h.

    The centre is at 0. At ratio 1 the positions are ``linspace(-1, 1, size)``.

    Args:
        size: odd extent k in training.
        ratio: resolution r.
        **factory: ``device`` and ``dtype``.

    Example:
        >>> centred_positions(5), centred_positions(5, 0.5)
        (tensor([-1.0000, -0.5000,  0.0000,  0.5000,  1.0000]), tensor([-1.,  0.,  1.]))
    """
    reach = taps(size, ratio) // 2
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64, device=factory.get('device'))
    return (steps * (2 / (ratio * max(size - 1, 1)))).to(**{'dtype': torch.get_default_dtype(), **factory})


def causal_positions(lags: Tensor, size: int) -> Tensor:
    r"""Return the positions of a causal kernel, :math:`p(\tau) = 1 - 2 \tau / (k - 1)`; the current sample is at 1.

    Args:
        lags: distance into the past, in training samples.
        size: extent k in training.

    Example:
        >>> causal_positions(torch.tensor([4.0, 2.0, 0.0]), 5)
        tensor([-1.,  0.,  1.])
    """
    return 1 - lags * (2 / max(size - 1, 1))


def _reach(size: int, causal: bool) -> int:
    return size - 1 if causal else (size - 1) // 2
