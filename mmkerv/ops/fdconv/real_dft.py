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
    index, count = counted(n, like)
    product = index[:, None] * index
    # Modulo n, where the angle keeps all digits.
    angle = (product - (product / count).floor() * count) * (2 * math.pi) / count
    return angle.cos(), angle.sin()


def counted(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return 0, ..., n - 1 and n as tensors of the type of ``like``; exporters know few operations of sizes.

    Example:
        >>> counted(3, torch.ones(1))
        (tensor([0., 1., 2.]), tensor([3.]))
    """
    index = torch.arange(n, device=like.device).to(like.dtype)
    return index, index[-1:] + 1


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
