"""Discrete Fourier transforms by products of real matrices, for exported graphs, whose formats may have no others."""

import math

import torch
from torch import Tensor


def waves(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2 pi a b / n, two (n, n) matrices.

    Example:
        >>> waves(2, torch.ones(1))[0]
        tensor([[ 1.,  1.],
                [ 1., -1.]])
    """
    index = torch.arange(n, device=like.device)
    # Modulo n, where the angle keeps all digits.
    angle = (index[:, None] * index % n).to(like.dtype) * (2 * math.pi / n)
    return angle.cos(), angle.sin()


def real_rfft2(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the real and the imaginary part of ``torch.fft.rfft2`` of (..., rows, columns).

    Example:
        >>> x = torch.randn(5, 4); real, imaginary = real_rfft2(x)
        >>> bool(torch.allclose(torch.complex(real, imaginary), torch.fft.rfft2(x), atol=1e-5))
        True
    """
    rows, columns = x.shape[-2:]
    half = columns // 2 + 1
    cosines, sines = (wave[:, :half] for wave in waves(columns, x))
    real, imaginary = x @ cosines, -(x @ sines)
    cosines, sines = waves(rows, x)
    return cosines @ real + sines @ imaginary, cosines @ imaginary - sines @ real


def real_irfft2(real: Tensor, imaginary: Tensor, columns: int) -> Tensor:
    """Compute ``torch.fft.irfft2`` of a spectrum (..., rows, columns // 2 + 1), to (..., rows, columns).

    Example:
        >>> x = torch.randn(5, 4)
        >>> bool(torch.allclose(real_irfft2(*real_rfft2(x), 4), x, atol=1e-5))
        True
    """
    rows, half = real.shape[-2:]
    cosines, sines = waves(rows, real)
    real, imaginary = cosines @ real - sines @ imaginary, cosines @ imaginary + sines @ real
    # Every column but the first, and the last of an even number, stands for its conjugate too.
    index = torch.arange(half, device=real.device)[:, None]
    twice = 2 - ((index == 0) | (2 * index == columns)).to(real.dtype)
    cosines, sines = (wave[:half] * twice for wave in waves(columns, real))
    return (real @ cosines - imaginary @ sines) / (rows * columns)
