"""The product of CoC's tiles with their matrices by a compiled extension, where there is one.

The extension ``_association`` is built with the package if a C compiler with OpenMP is at hand. Without it, and where
it does not apply, :mod:`mmkerv.ops.coc.tile_product` computes the same by torch's products. It shares the threads of
torch, whose OpenMP it finds among the libraries that torch has loaded.
"""

from array import array
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

try:
    import mmkerv.ops.coc._association as _association
except ImportError:
    # Not built, or for a torch with another OpenMP: `python -m mmkerv.env` gives the reason.
    _association = None

# Taps of the kernels that it is written for: 3x3.
TAPS = 9


class Pairs(NamedTuple):
    """Taps that a matrix connects, as triples: filter, other filter, number of the other tap minus that of the tap.

    Example:
        >>> Pairs.of([(0, 1, 2)]).transposed
        array('i', [1, 0, -2])
    """

    forward: array
    transposed: array

    @classmethod
    def of(cls, triples: Iterable[tuple[int, int, int]]) -> 'Pairs':
        """Return the pairs of a matrix and of the transposed one, sorted by filter."""
        triples = sorted(triples)
        flipped = sorted((other, own, -shift) for own, other, shift in triples)
        return cls(*(array('i', (n for triple in some for n in triple)) for some in (triples, flipped)))


def is_built() -> bool:
    """Return whether the extension can be used in this environment.

    Example:
        >>> is_built() in (True, False)
        True
    """
    return _association is not None


def applies(kernels: Tensor) -> bool:
    """Return whether the extension computes the product of kernels (G, F, I, P).

    Example:
        >>> applies(torch.zeros(1, 4, 8, 9, dtype=torch.float64))
        False
    """
    return (
        _association is not None
        and kernels.shape[3] == TAPS
        and kernels.dtype == torch.float32
        and kernels.device.type == 'cpu'
        and type(kernels) in (Tensor, nn.Parameter)
        # Counters of multiply-adds and of memory see torch's own operations only.
        and _get_current_dispatch_mode() is None
    )


def product(kernels: Tensor, matrix: Tensor, pairs: Pairs, residual: bool, transposed: bool = False) -> Tensor:
    """Multiply tiles by their matrices, or by the transposed ones, as :mod:`mmkerv.ops.coc.tile_product` does.

    Args:
        kernels: (G, F, I, 9) float32 on the CPU.
        matrix: (G, T, T), zero where ``pairs`` has no pair.
        pairs: taps that the matrix connects.
        residual: add the kernels to the result.
        transposed: multiply by the transposed matrices.

    Returns:
        (G, F, I, 9), contiguous.
    """
    kernels, matrix = kernels.contiguous(), matrix.contiguous()
    out = torch.empty_like(kernels)
    some = pairs.transposed if transposed else pairs.forward
    _call(_association.product, (kernels, matrix, out), some, kernels, residual, transposed)
    return out


def matrix_gradient(kernels: Tensor, grad: Tensor, pairs: Pairs) -> Tensor:
    """Return the gradient of the matrices, (G, T, T), from that of the result; 0 where ``pairs`` has no pair.

    Args:
        kernels: (G, F, I, 9) float32 on the CPU.
        grad: gradient of the result, of the same shape.
        pairs: taps that the matrices connect.
    """
    kernels, grad = kernels.contiguous(), grad.contiguous()
    size = kernels.shape[1] * kernels.shape[3]
    out = kernels.new_empty(len(kernels), size, size)
    _call(_association.gradient, (kernels, grad, out), pairs.forward, kernels, False, False)
    return out


def _call(function, tensors: tuple[Tensor, ...], pairs: array, kernels: Tensor, residual: bool, transposed: bool):
    groups, filters, inputs, taps = kernels.shape
    address, numbers = pairs.buffer_info()
    sizes = numbers // 3, filters, inputs * taps, groups
    addresses = [tensor.data_ptr() for tensor in tensors]
    function(*addresses, address, *sizes, residual, transposed, torch.get_num_threads())
