r"""Truncation of the ranks of a low-rank kernel: the smallest ranks that keep it within a relative error.

Tucker-2 and matrices: the bases of the chain are made orthonormal by QR decompositions, and the core between them is
truncated by HOSVD, De Lathauwer, De Moor and Vandewalle, SIAM J. Matrix Anal. Appl. 21 (2000). CP: terms are dropped
one by one, each time the one whose loss is least once the others make up for it, as weights are in Hassibi and Stork,
"Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmkerv.ops.core.geometry import grouped

# Relative error that counts as none: that of kernels in float32.
ROUNDING = 1e-6
# Share of the tolerance that the ranks may use; the rest is for rounding the new kernels.
USED = 0.999
# For terms of norm 1: what is added to their inner products, and the inverse of the part of a term that no others make
# up for, from which on it counts as dependent on them.
RIDGE, DEPENDENT = 1e-12, 1e6


class Truncation(NamedTuple):
    """Linear maps from the kernels of a chain to those of a shorter one, which also apply to their averages.

    Args:
        ranks: new ranks r_in and r_out.
        maps: what makes each new kernel from the old one, by name.

    Example:
        >>> Truncation((1, 1), {'last': lambda last: last[:, :1]}).ranks
        (1, 1)
    """

    ranks: tuple[int, int]
    maps: Mapping[str, Callable[[Tensor], Tensor]]


def truncate_tucker(first: Tensor, core: Tensor, last: Tensor, groups: int, tolerance: float) -> Truncation:
    r"""Return the truncation of :math:`K_{oi} = \sum_{pq} A_{op} C_{pq} B_{iq}` with the fewest weights.

    The pair of ranks is the one with the fewest weights for which the HOSVD of the core between orthonormal bases,
    truncated to them, has an error of at most ``tolerance`` times the norm of the kernel. Afterwards A and B are
    orthonormal in each channel group.

    Args:
        first: B, (groups r_in, C/groups, 1, 1), float64.
        core: C, (groups r_out, r_in, kH, kW).
        last: A, (O, r_out, 1, 1).
        groups: channel groups.
        tolerance: largest relative error of the kernels of all groups together, >= 0.

    Example:
        >>> a = torch.ones(4, 2, 1, 1, dtype=torch.float64)
        >>> truncate_tucker(a.transpose(0, 1), torch.ones(2, 2, 3, 3, dtype=torch.float64), a, 1, 0.0).ranks
        (1, 1)
    """
    a, b = grouped(last.flatten(1), 0, groups), grouped(first.flatten(1), 0, groups).transpose(1, 2)
    c = grouped(core.flatten(2), 0, groups)
    ra, rb = _triangular(a), _triangular(b)
    s = torch.einsum('gxp,gpqt,gyq->gxyt', ra, c, rb)
    u, v = _directions(s), _directions(s.transpose(1, 2))
    energy = torch.einsum('gxyt,gxp,gyq->gpqt', s, u, v).square().sum((0, 3))
    total = energy.sum()
    lost = total - energy.cumsum(0).cumsum(1)
    taps, outputs, inputs = c.shape[3], a.shape[1], b.shape[1]
    outer = torch.arange(1, energy.shape[0] + 1)[:, None]
    inner = torch.arange(1, energy.shape[1] + 1)
    # A core of other sizes has a smaller rank itself, see `tucker_ranks`.
    possible = (lost.cpu() <= _allowed(tolerance, total).cpu()) & (outer <= inner * taps) & (inner <= outer * taps)
    weights = outer * inner * taps + outer * outputs + inner * inputs
    choice = int(torch.where(possible, weights, weights.max() + 1).argmin())
    p, q = choice // energy.shape[1] + 1, choice % energy.shape[1] + 1
    u, v = u[:, :, :p], v[:, :, :q]
    to_a, to_b = _inverse(ra) @ u, _inverse(rb) @ v
    from_a, from_b = u.transpose(1, 2) @ ra, v.transpose(1, 2) @ rb
    maps = {
        'first': lambda x: (to_b.transpose(1, 2) @ grouped(x.flatten(1), 0, groups)).flatten(0, 1)[..., None, None],
        'core': lambda x: torch.einsum('gxp,gpqhw,gyq->gxyhw', from_a, grouped(x, 0, groups), from_b).flatten(0, 1),
        'last': lambda x: (grouped(x.flatten(1), 0, groups) @ to_a).flatten(0, 1)[..., None, None],
    }
    return Truncation((q, p), maps)


def truncate_matrix(first: Tensor, last: Tensor, groups: int, tolerance: float) -> Truncation:
    r"""Return the truncation of :math:`K = A B` to the smallest rank.

    Args:
        first: B, (groups r, C/groups, 1, 1), float64.
        last: A, (O, r, 1, 1).
        groups: channel groups.
        tolerance: as in :func:`truncate_tucker`.

    Example:
        >>> a = torch.ones(4, 2, 1, 1, dtype=torch.float64)
        >>> truncate_matrix(a.transpose(0, 1), a, 1, 0.0).ranks
        (1, 1)
    """
    a, b = grouped(last.flatten(1), 0, groups), grouped(first.flatten(1), 0, groups)
    ra, rb = _triangular(a), _triangular(b.transpose(1, 2))
    u, s, _ = torch.linalg.svd(ra @ rb.transpose(1, 2))
    energy = s.square().sum(0)
    lost = energy.flip(0).cumsum(0).flip(0) - energy
    rank = int((lost <= _allowed(tolerance, energy.sum())).to(torch.int).argmax()) + 1
    u = u[:, :, :rank]
    to_a, from_a = _inverse(ra) @ u, u.transpose(1, 2) @ ra
    # Both factors get columns of about the same norm.
    scale = (energy[:rank].sum() / (rank * groups)) ** 0.25
    maps = {
        'first': lambda x: (from_a @ grouped(x.flatten(1), 0, groups)).flatten(0, 1)[..., None, None] / scale,
        'last': lambda x: (grouped(x.flatten(1), 0, groups) @ to_a).flatten(0, 1)[..., None, None] * scale,
    }
    return Truncation((rank, rank), maps)


def truncate_cp(first: Tensor, spatial: list[Tensor], last: Tensor, groups: int, tolerance: float) -> Truncation:
    r"""Return the truncation of :math:`K_{oi} = \sum_r A_{or} B_{ir} S_r` to fewer of its terms.

    A is fitted to the remaining terms by least squares. Terms that are no sum of others stay, so this number need not
    be the smallest that any CP has.

    Args:
        first: B, (groups r, C/groups, 1, 1), float64.
        spatial: S (groups r, 1, kH, kW), or its factors, whose product it is.
        last: A, (O, r, 1, 1).
        groups: channel groups.
        tolerance: as in :func:`truncate_tucker`.

    Example:
        >>> a = torch.ones(4, 2, 1, 1, dtype=torch.float64)
        >>> taps = [torch.ones(2, 1, 3, 3, dtype=torch.float64)]
        >>> truncate_cp(a.transpose(0, 1), taps, a, 1, 0.0).ranks
        (1, 1)
    """
    a, b = grouped(last.flatten(1), 0, groups), grouped(first.flatten(1), 0, groups)
    taps = spatial[0]
    for factor in spatial[1:]:
        taps = taps * factor
    taps = grouped(taps.flatten(1), 0, groups)
    # Inner products of the terms without A.
    gram = (b @ b.transpose(1, 2)) * (taps @ taps.transpose(1, 2))
    orders = [_elimination(*pair) for pair in zip(a, gram)]
    allowed, terms = _allowed(tolerance, _squared_norm(a, gram)), a.shape[2]

    def fit(number: int) -> tuple[Tensor, Tensor]:
        """Return the kept terms of each group, and the map of A onto them."""
        kept = torch.stack([order[terms - number :].sort().values for order in orders])
        rows = torch.stack([each[places] for each, places in zip(gram, kept)])
        own = torch.stack([each[:, places] for each, places in zip(rows, kept)])
        return kept, rows.transpose(1, 2) @ torch.linalg.pinv(own, rtol=ROUNDING**2, hermitian=True)

    def is_enough(number: int) -> bool:
        kept, to_a = fit(number)
        select = torch.nn.functional.one_hot(kept, terms).to(a)
        rest = a - (a @ to_a) @ select
        return bool(_squared_norm(rest, gram) <= allowed)

    low, high = 1, terms
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    kept, to_a = fit(high)
    places = (kept + terms * torch.arange(groups, device=kept.device)[:, None]).flatten()
    maps = dict.fromkeys(('first', 'core', 'vertical', 'horizontal'), lambda x: x[places])
    maps['last'] = lambda x: (grouped(x.flatten(1), 0, groups) @ to_a).flatten(0, 1)[..., None, None]
    return Truncation((high, high), maps)


def _elimination(a: Tensor, gram: Tensor) -> Tensor:
    """Return the terms of one group in the order in which they are dropped."""
    norms = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    gram, target = gram / torch.outer(norms, norms), a * norms
    alive, order = torch.ones(len(gram), dtype=torch.bool, device=gram.device), []

    def solved() -> tuple[Tensor, Tensor]:
        """Return the inverse for the terms that are left, and A fitted to them; zeros elsewhere."""
        places = alive.nonzero()[:, 0]
        # Terms that depend on others cost next to nothing, and drop first.
        own = gram[places[:, None], places] + RIDGE * torch.eye(len(places), dtype=gram.dtype, device=gram.device)
        inverse, fitted = torch.zeros_like(gram), torch.zeros_like(target)
        inverse[places[:, None], places] = torch.linalg.inv(own)
        fitted[:, places] = target @ gram[:, places] @ inverse[places[:, None], places]
        return inverse, fitted

    inverse, fitted = solved()
    for _ in range(len(gram)):
        loss = fitted.square().sum(0) / inverse.diagonal().clamp_min(torch.finfo(gram.dtype).tiny)
        term = int(torch.where(alive, loss, torch.inf).argmin())
        order.append(term)
        alive[term] = False
        row, pivot = inverse[term].clone(), inverse[term, term].clone()
        if pivot > DEPENDENT and alive.any():
            # The update would subtract numbers of that size from one another.
            inverse, fitted = solved()
        else:
            fitted -= torch.outer(fitted[:, term].clone(), row / pivot)
            inverse -= torch.outer(row, row) / pivot
    return torch.tensor(order, device=gram.device)


def _squared_norm(a: Tensor, gram: Tensor) -> Tensor:
    return torch.einsum('gor,grs,gos->', a, gram, a)


def _allowed(tolerance: float, total: Tensor) -> Tensor:
    """Return the squared error that is allowed."""
    return max(USED * tolerance, ROUNDING / 2) ** 2 * total


def _triangular(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix, mode='r').R


def _directions(tensor: Tensor) -> Tensor:
    """Return the left singular vectors, (g, n, n), of tensors (g, n, ...) unfolded to matrices, leading ones first."""
    matrix = tensor.flatten(2)
    return torch.linalg.eigh(matrix @ matrix.transpose(1, 2)).eigenvectors.flip(2)


def _inverse(matrix: Tensor) -> Tensor:
    # What is below the rounding of kernels in float32 is noise.
    return torch.linalg.pinv(matrix, rtol=ROUNDING)
