"""Patterns of depthwise kernels: which derivative of a Gaussian each kernel resembles.

Trained depthwise kernels mostly are differences of Gaussians and their first and second derivatives (Babaiee et al.,
"Unveiling the Unseen: Identifiable Clusters in Trained Depthwise Convolutional Kernels", ICLR 2024). The authors
cluster with an autoencoder; here each kernel is compared with fixed templates.
"""

from collections import Counter

import torch
from torch import Tensor

from mmkerv.errors import UndefinedStatisticError

PATTERNS = ('G', 'DoG', 'dx', 'dy', 'dxx', 'dyy', 'dxy')
SIGMAS = (0.6, 1.0, 1.5)
# Width of the wider Gaussian of a difference.
RATIO = 1.6
# Least similarity with a template; 6 % of random 3x3 kernels reach it, and hardly any 5x5 one.
LEAST_COSINE = 0.8
SMALLEST = 5
OTHER = 'other'


def templates(kernel_size: tuple[int, int]) -> Tensor:
    """Return the templates (patterns x sigmas, kH, kW) with norm 1: a Gaussian of each width, and its derivatives.

    They are ordered by pattern, then by sigma, which is in taps.

    Args:
        kernel_size: height and width.

    Example:
        >>> templates((5, 5)).shape
        torch.Size([21, 5, 5])
    """
    y, x = (torch.arange(k, dtype=torch.float64) - (k - 1) / 2 for k in kernel_size)
    y, x = y[:, None], x[None]
    radius = x**2 + y**2
    by_sigma = []
    for sigma in SIGMAS:
        gauss, wide = (torch.exp(-radius / (2 * s**2)) for s in (sigma, RATIO * sigma))
        difference = gauss / gauss.sum() - wide / wide.sum()
        second = [gauss * (axis**2 / sigma**2 - 1) for axis in (x, y)]
        by_sigma.append(torch.stack([gauss, difference, gauss * x, gauss * y, *second, gauss * x * y]))
    found = torch.stack(by_sigma, 1).flatten(0, 1)
    return found / torch.linalg.vector_norm(found, dim=(1, 2), keepdim=True)


def patterns(kernel: Tensor) -> list[str]:
    """Return the pattern of each depthwise kernel: that of the nearest template, or ``'other'``.

    The similarity is the magnitude of the cosine; below 0.8, and for a kernel that is zero, the label is ``'other'``.

    Args:
        kernel: (O, 1, kH, kW).

    Example:
        >>> patterns(-3 * templates((7, 7))[6:7, None])
        ['dx']
    """
    return _labelled(kernel)[0]


def mean_kernels(kernel: Tensor) -> dict[str, tuple[Tensor, float]]:
    """Return the mean of the depthwise kernels of each pattern and their share of all, the commonest first.

    Each kernel is divided by its norm and has the sign of its template. Those of no pattern count for the shares alone.

    Args:
        kernel: (O, 1, kH, kW).

    Returns:
        By pattern, the mean (kH, kW) and the share.

    Example:
        >>> mean, share = mean_kernels(templates((5, 5))[:3, None])['G']
        >>> mean.shape, share
        (torch.Size([5, 5]), 1.0)
    """
    labels, rows = _labelled(kernel)
    counts = Counter(label for label in labels if label != OTHER)
    means = {}
    for label, count in counts.most_common():
        chosen = torch.tensor([other == label for other in labels], device=rows.device)
        means[label] = (rows[chosen].mean(0).view(*kernel.shape[2:]), count / len(labels))
    return means


def _labelled(kernel: Tensor) -> tuple[list[str], Tensor]:
    """Return the pattern of each depthwise kernel, and the kernels (O, kH * kW) of norm 1, as their templates lie."""
    rows = kernel.detach().to(torch.float64).flatten(1)
    rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1.0)
    cosines = rows @ templates(tuple(kernel.shape[2:])).flatten(1).to(rows.device).T
    nearest = cosines.abs().argmax(1, keepdim=True)
    signed = cosines.gather(1, nearest)
    found = zip(signed[:, 0].abs().tolist(), (nearest[:, 0] // len(SIGMAS)).tolist())
    labels = [PATTERNS[index] if value >= LEAST_COSINE else OTHER for value, index in found]
    return labels, rows * signed.sign()


def pattern_shares(kernel: Tensor, groups: int) -> dict[str, float]:
    """Return the share of each pattern among the kernels of a depthwise layer, the commonest first.

    Args:
        kernel: (O, I/g, kH, kW).
        groups: number g of channel groups.

    Raises:
        UndefinedStatisticError: if the layer is not depthwise, or smaller than 5x5: small random kernels resemble the
            templates too.

    Example:
        >>> pattern_shares(templates((5, 5))[:6, None], groups=6)
        {'G': 0.5, 'DoG': 0.5}
    """
    require_patterns(kernel, groups)
    labels = patterns(kernel)
    counts = {label: labels.count(label) for label in (*PATTERNS, OTHER)}
    order = sorted((label for label, count in counts.items() if count), key=lambda label: -counts[label])
    return {label: counts[label] / len(labels) for label in order}


def require_patterns(kernel: Tensor, groups: int) -> None:
    """Raise unless the kernels of a layer can be compared with the templates.

    Args:
        kernel: (O, I/g, *size).
        groups: number g of channel groups.

    Raises:
        UndefinedStatisticError: as :func:`pattern_shares`.

    Example:
        >>> require_patterns(torch.ones(4, 1, 5, 5), 4)
    """
    if kernel.dim() != 4 or kernel.shape[1] != 1 or groups == 1:
        raise UndefinedStatisticError('the layer is not depthwise')
    if min(kernel.shape[2:]) < SMALLEST:
        raise UndefinedStatisticError('random kernels below 5x5 have these patterns too')
