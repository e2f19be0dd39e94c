"""The Fourier coefficients of a kernel in bands of rising frequency, and the kernel with other gains of its bands."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mmkerv.ops.core.tracing import may_lack_fourier_transforms
from mmkerv.ops.fdconv.real_dft import real_irfft2, real_rfft2

BAND_ORDERS = ('integer', 'official')


@lru_cache(maxsize=64)
def ranks(rows: int, columns: int, order: str = 'integer') -> np.ndarray:
    r"""Number the coefficients of ``rfft2`` of a real (rows, columns) matrix from the lowest frequency to the highest.

    With integer frequencies m, -rows/2 <= m < rows/2, and n, 0 <= n <= columns/2, coefficient (m, n) has the frequency
    :math:`\sqrt{(m / \mathrm{rows})^2 + (n / \mathrm{columns})^2}`. Equal frequencies are in the order in which
    ``rfft2`` stores them, row by row. ``'integer'`` compares them exactly, as the integers (m columns)^2 + (n rows)^2,
    so the order is the same everywhere. ``'official'`` is that of the authors' code, which sorts rounded frequencies by
    ``torch.sort`` without ``stable``: where frequencies are equal, the order depends on torch.

    Returns:
        The number of each coefficient, flat, (rows * (columns // 2 + 1),), of type int32.

    Example:
        >>> ranks(4, 2).reshape(4, 2).tolist()
        [[0, 3], [1, 5], [4, 7], [2, 6]]
    """
    half = columns // 2 + 1
    if order == 'integer':
        m = np.fft.fftfreq(rows, 1 / rows).round().astype(np.int64)[:, None]
        keys = (m * columns) ** 2 + (np.arange(half, dtype=np.int64) * rows) ** 2
        sequence = np.argsort(keys.ravel(), kind='stable')
    else:
        settings = {'dtype': torch.float32, 'device': 'cpu'}
        axes = torch.fft.fftfreq(rows, **settings), torch.fft.rfftfreq(columns, **settings)
        frequency = torch.norm(torch.stack(torch.meshgrid(*axes, indexing='ij'), -1), dim=-1)
        sequence = torch.sort(frequency.view(-1)).indices.numpy()
    result = np.empty(rows * half, np.int32)
    result[sequence] = np.arange(rows * half, dtype=np.int32)
    result.flags.writeable = False
    return result


def spectrum_size(weight_shape: tuple[int, ...], groups: int) -> tuple[int, int]:
    """Return (rows, columns) of the matrix of a group's kernels, of which the Fourier transform is taken.

    Example:
        >>> spectrum_size((64, 32, 3, 3), groups=1)
        (192, 96)
    """
    # Sizes are tensors where torch.jit.trace records.
    outputs, width, height, across = [int(size) for size in weight_shape]
    return outputs // groups * height, width * across


def gain_map(gains: Tensor, ranks: Tensor, rows: int, columns: int) -> Tensor:
    """Spread the gains of bands over the coefficients of ``rfft2``.

    The bands are consecutive in ``ranks``; the first ones hold one coefficient more if they cannot be equal. In the
    columns where coefficients (m, n) and (-m, n) are conjugates, both get the mean of their gains, so that the result
    belongs to a real matrix.

    Args:
        gains: (N, bands).
        ranks: as the function of that name returns it.
        rows: of the real matrix.
        columns: of the real matrix.

    Returns:
        (N, rows, columns // 2 + 1).

    Example:
        >>> gain_map(torch.tensor([[1.0, 2.0]]), torch.from_numpy(ranks(4, 2).copy()), 4, 2)[0].tolist()
        [[1.0, 1.0], [1.0, 2.0], [2.0, 2.0], [1.0, 2.0]]
    """
    half = columns // 2 + 1
    bands = int(gains.shape[1])
    size, larger = divmod(rows * half, bands)
    sequence = gains[:, larger:, None].expand(-1, -1, size).reshape(-1, (bands - larger) * size)
    if larger:
        longer = gains[:, :larger, None].expand(-1, -1, size + 1).reshape(-1, larger * (size + 1))
        sequence = torch.cat([longer, sequence], 1)
    # By a permutation of the coefficients, not by their bands: its derivative adds up nothing.
    # int64: torch 2.1 has no vmap of other indices.
    result = sequence.index_select(1, ranks.long()).view(-1, rows, half)
    edges = [result[..., :1], result[..., half - 1 :]] if columns % 2 == 0 else [result[..., :1]]
    edges = [(edge + edge.flip(1).roll(1, 1)) / 2 for edge in edges]
    middle = result[..., 1 : half - 1] if columns % 2 == 0 else result[..., 1:]
    return torch.cat([edges[0], middle, *edges[1:]], 2)


def banded_kernels(weight: Tensor, gains: Tensor, ranks: Tensor, groups: int) -> Tensor:
    r"""Scale the frequency bands of a kernel, :math:`V_n = W + \sum_g (a_{ng} - 1) W_g`, for each sample n.

    :math:`W_g` are the frequencies of band g of the matrix U[o kH + r, i kW + s] = W[o, i, r, s] of each group.

    Args:
        weight: W, (O, C/groups, kH, kW).
        gains: a - 1, (N, bands).
        ranks: of the coefficients, see :func:`gain_map`.
        groups: number of groups.

    Returns:
        V, (N, O, C/groups, kH, kW).

    Example:
        >>> weight, order = torch.randn(4, 2, 3, 3), torch.from_numpy(ranks(12, 6).copy())
        >>> bool(torch.equal(banded_kernels(weight, torch.zeros(1, 4), order, 1)[0], weight))
        True
    """
    return weight + _scaled(weight, gains, ranks, groups)


def bands_of(weight: Tensor, number: int, ranks: Tensor, groups: int) -> Tensor:
    r"""Cut a kernel into its frequency bands :math:`W_g`, which add up to it.

    Args:
        weight: W, (O, C/groups, kH, kW).
        number: of bands.
        ranks: of the coefficients, see :func:`gain_map`.
        groups: number of groups.

    Returns:
        (bands, O, C/groups, kH, kW).

    Example:
        >>> weight, order = torch.randn(4, 2, 3, 3), torch.from_numpy(ranks(12, 6).copy())
        >>> bool(torch.allclose(bands_of(weight, 3, order, 1).sum(0), weight, atol=1e-6))
        True
    """
    return _scaled(weight, torch.eye(number, dtype=weight.dtype, device=weight.device), ranks, groups)


def _scaled(weight: Tensor, gains: Tensor, ranks: Tensor, groups: int) -> Tensor:
    """Return the sums of the bands of ``weight`` with the factors ``gains``."""
    outputs, width, height, across = [int(size) for size in weight.shape]
    rows, columns = spectrum_size(weight.shape, groups)
    matrix = weight.view(groups, outputs // groups, width, height, across).transpose(2, 3)
    matrix = matrix.reshape(groups, rows, columns)
    gain = gain_map(gains, ranks, rows, columns).unsqueeze(1)
    if may_lack_fourier_transforms():
        change = real_irfft2(*(part * gain for part in real_rfft2(matrix)), columns)
    else:
        change = torch.fft.irfft2(torch.fft.rfft2(matrix) * gain, s=(rows, columns))
    return change.reshape(-1, outputs, height, width, across).transpose(2, 3)
