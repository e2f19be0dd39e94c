"""Frequency bands of feature maps, each scaled at every pixel (the paper's frequency band modulation)."""

import torch
from torch import Tensor

from mmkerv.ops.core.tracing import may_lack_fourier_transforms
from mmkerv.ops.fdconv.real_dft import counted, waves

# The bands end at 1 / (2 k) cycles per pixel.
EDGES = (2, 4, 8)


def modulated(x: Tensor, gains: Tensor, official: bool = False) -> Tensor:
    r"""Scale the frequency bands of maps, :math:`y = x + \sum_i (m_i - 1)(X_{i-1} - X_i)`.

    :math:`X_0 = x`, and :math:`X_i` has the frequencies of x below 1 / (2 k) cycles per pixel in both directions, k =
    2, 4, 8. The lowest band, :math:`X_3`, keeps its scale.

    Args:
        x: maps, (N, C, H, W), in float32 or float64.
        gains: m - 1, (N, 3, H, W).
        official: whether the two lower limits belong to the band below, as rounding has it in the authors' code.

    Returns:
        y, (N, C, H, W).

    Example:
        >>> x = torch.randn(1, 2, 9, 8)
        >>> bool(torch.equal(modulated(x, torch.zeros(1, 3, 9, 8)), x))
        True
    """
    y, before = x, x
    for number, lower in enumerate(low_passes(x, official)):
        y = y + gains[:, number : number + 1] * (before - lower)
        before = lower
    return y


def low_passes(x: Tensor, official: bool = False) -> list[Tensor]:
    """Return the maps (N, C, H, W) with the frequencies below 1 / 4, 1 / 8 and 1 / 16 alone.

    Example:
        >>> [round(float(part.std()), 3) for part in low_passes(torch.tensor([[[[1.0, -1.0] * 8]]]))]
        [0.0, 0.0, 0.0]
    """
    height, width = x.shape[-2:]
    if may_lack_fourier_transforms():
        return [_projection(height, k, x, official) @ x @ _projection(width, k, x, official) for k in EDGES]
    spectrum, lower = torch.fft.rfft2(x), []
    for k in EDGES:
        rows, columns = _below(height, k, x, official)[:, None], _below(width, k, x, official)[: width // 2 + 1]
        lower.append(torch.fft.irfft2(spectrum * (rows * columns), s=(height, width)))
    return lower


def _below(n: int, k: int, like: Tensor, official: bool) -> Tensor:
    """Return 1 for the frequencies of a transform of length n below 1 / (2 k), and 0 for the others."""
    # Floats: ONNX has no minimum of integers before opset 12.
    index, count = counted(n, like)
    frequency = 2 * k * torch.minimum(index, count - index)
    return (frequency <= count if official and k > EDGES[0] else frequency < count).to(like.dtype)


def _projection(n: int, k: int, like: Tensor, official: bool) -> Tensor:
    """Return the symmetric matrix that keeps the frequencies below 1 / (2 k) of a sequence of length n."""
    below = _below(n, k, like, official)
    cosines, sines = waves(n, like)
    return ((cosines * below) @ cosines + (sines * below) @ sines) / counted(n, like)[1]
