"""Gaussian mask of a continuous kernel, which learns how large the kernel is.

FlexConv: Continuous Kernel Convolutions with Differentiable Kernel Sizes, ICLR 2022.
"""

import math

import torch
from torch import Tensor


def gaussian_mask(
    positions: Tensor, mean: Tensor, width: Tensor, crop: float | None = None, causal: bool = False
) -> Tensor:
    r"""Compute :math:`G(p) = \prod_d \exp(-\frac12 ((p_d - \mu_d) / \sigma_d)^2)`, zero outside the crop.

    With ``crop`` T and :math:`a_d = \sigma_d \sqrt{-2 \ln T}`, the distance at which G falls to T, positions are kept
    where :math:`|p_d| < |\mu_d| + a_d` on every axis: the smallest range centred on the kernel that holds all values
    above T. A causal kernel keeps :math:`p > \mu - a`. The crop is a factor of 0 or 1, so all shapes are static.

    Args:
        positions: p, (P, d).
        mean: :math:`\mu`, (d,).
        width: :math:`\sigma`, (d,), > 0.
        crop: T, between 0 and 1; ``None`` keeps all positions.
        causal: whether later positions than the mean are kept, however far they are.

    Returns:
        (P,)

    Source: FlexConv, ICLR 2022, section 3.2.

    Example:
        >>> p = torch.linspace(-1, 1, 5)[:, None]
        >>> gaussian_mask(p, torch.zeros(1), torch.ones(1) / 3, crop=0.2)
        tensor([0.0000, 0.3247, 1.0000, 0.3247, 0.0000])
    """
    mask = torch.exp(-0.5 * ((positions - mean) / width).square().sum(-1))
    if crop is None:
        return mask
    reach = width * math.sqrt(-2 * math.log(crop))
    kept = positions > mean - reach if causal else positions.abs() < mean.abs() + reach
    return mask * kept.to(mask.dtype).prod(-1)
