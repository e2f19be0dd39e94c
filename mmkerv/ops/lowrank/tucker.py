r"""Tucker-2 decomposition of a kernel, and the truncated singular value decomposition of a matrix.

K = sum_pq A[o, p] C[p, q] B[i, q]: the channels of a kernel in two orthonormal bases. De Lathauwer, De Moor and
Vandewalle, "A Multilinear Singular Value Decomposition" (HOSVD) and "On the Best Rank-1 and Rank-(R1, ..., RN)
Approximation of Higher-Order Tensors" (HOOI), SIAM J. Matrix Anal. Appl. 21 (2000); for kernels: Kim et al.,
"Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications", ICLR 2016.
"""

import torch
from torch import Tensor


def tucker2(
    kernel: Tensor, ranks: tuple[int, int], iterations: int = 20, tolerance: float = 1e-8
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Decompose a kernel into :math:`K_{oi} \approx \sum_{pq} A_{op} C_{pq} B_{iq}` with orthonormal A and B.

    HOSVD gives the start: the leading left singular vectors of both unfoldings. HOOI improves it: each basis in turn
    becomes the best one for the other. The error never grows.

    Args:
        kernel: K, (O, I, *size), finite; computed in its type, so float64 is advisable.
        ranks: r_in and r_out, up to I and O.
        iterations: largest number of HOOI steps.
        tolerance: stop when a step removes less than this fraction of the kernel's squared norm from the error.

    Returns:
        A (O, r_out), C (r_out, r_in, *size) and B (I, r_in).

    Example:
        >>> kernel = torch.randn(8, 4, 3, 3, dtype=torch.float64)
        >>> a, c, b = tucker2(kernel, (4, 8))
        >>> bool(torch.allclose(torch.einsum('op,pqhw,iq->oihw', a, c, b), kernel))
        True
    """
    inner, outer = ranks
    tensor = kernel.flatten(2)
    b = _leading(tensor.transpose(0, 1), inner)
    a = _leading(tensor, outer)
    energy = tensor.square().sum()
    kept = torch.zeros_like(energy)
    for _ in range(iterations):
        a = _leading(torch.einsum('oik,iq->oqk', tensor, b), outer)
        projected = torch.einsum('oik,op->ipk', tensor, a)
        b = _leading(projected, inner)
        before, kept = kept, torch.einsum('ipk,iq->pqk', projected, b).square().sum()
        if kept - before <= tolerance * energy:
            break
    core = torch.einsum('oik,op,iq->pqk', tensor, a, b)
    return a, core.reshape(outer, inner, *kernel.shape[2:]), b


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""Return the best product of a matrix of ``rank`` columns and one of ``rank`` rows.

    :math:`M \approx (U \sqrt{S}) (\sqrt{S} V^T)`

    Args:
        matrix: M, (O, I).
        rank: up to min(O, I).

    Returns:
        (O, rank) and (rank, I).

    Example:
        >>> left, right = truncated_svd(torch.eye(3), 3)
        >>> bool(torch.allclose(left @ right, torch.eye(3), atol=1e-6))
        True
    """
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def _leading(tensor: Tensor, number: int) -> Tensor:
    """Return the leading left singular vectors, (n, number), of a tensor (n, ...) unfolded to a matrix."""
    matrix = tensor.flatten(1)
    # The eigenvectors of M M^T: M itself has as many columns as input channels and taps together. In ascending order.
    return torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -number:].flip(1)
