"""Product of each tile of convolution kernels with its own matrix, without keeping the tiles.

Kernels are stored filter by filter, but a product over (filter, tap) needs these two axes next to each other. Plain
operations would save the reordered copy for backward, as much memory again as the kernels. Here it goes through a small
buffer that stays in the cache, and backward reorders again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmkerv.ops.coc import compiled
from mmkerv.ops.coc.compiled import Pairs

# Elements of a buffer. 1 MiB of float32 was fastest on a CPU with 2 MiB of cache per core.
BUFFER = 2**18


def tile_product(
    kernels: Tensor, matrix: Tensor, bias: Tensor | None = None, residual: bool = False, pairs: Pairs | None = None
) -> Tensor:
    r"""Multiply each tile of ``kernels`` by its matrix: :math:`y_{gfip} = \sum_{eq} M_{g,fp,eq} x_{geiq} + b_g`.

    A tile consists of the P taps that each of F filters has for an input channel i; T = F * P.

    Args:
        kernels: x, (G, F, I, P).
        matrix: M, (G, T, T), taps numbered filter by filter.
        bias: b, (G,), or ``None``.
        residual: add x to the result. Adding the identity to M is not the same: it would round x where matrix products
            are computed in less than float32 (TensorFloat-32).
        pairs: taps that M connects, where the compiled extension computes the product: M is taken to be 0 elsewhere,
            and so is its gradient. ``None``: torch computes the product.

    Returns:
        y, (G, F, I, P), contiguous; twice differentiable.

    Example:
        >>> x, swap = torch.arange(4.0).view(1, 2, 2, 1), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
        >>> tile_product(x, swap).flatten().tolist()
        [2.0, 3.0, 0.0, 1.0]
    """
    return _TileProduct.apply(kernels, matrix, bias, residual, pairs)


class _TileProduct(torch.autograd.Function):
    @staticmethod
    def forward(kernels: Tensor, matrix: Tensor, bias: Tensor | None, residual: bool, pairs: Pairs | None) -> Tensor:
        if pairs:
            y = compiled.product(kernels, matrix, pairs, residual)
            return y if bias is None else y.add_(bias.view(-1, 1, 1, 1))
        y = torch.empty_like(kernels, memory_format=torch.contiguous_format)
        for some, tiles, product in _buffered(kernels):
            _read(tiles, kernels[some])
            _multiply(tiles, matrix[some].transpose(1, 2), residual, product)
            _write(y[some], product)
            if bias is not None:
                y[some].add_(bias[some].view(-1, 1, 1, 1))
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        kernels, matrix, _, ctx.residual, ctx.pairs = inputs
        ctx.save_for_backward(kernels, matrix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernels, matrix = ctx.saved_tensors
        of_kernels, of_matrix, of_bias, _, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            grad_kernels = tile_product(grad, matrix.transpose(1, 2), None, ctx.residual) if of_kernels else None
            grad_matrix = _tiles(grad).transpose(1, 2) @ _tiles(kernels) if of_matrix else None
        elif ctx.pairs:
            grad_kernels = None
            if of_kernels:
                grad_kernels = compiled.product(grad, matrix, ctx.pairs, ctx.residual, transposed=True)
            grad_matrix = compiled.matrix_gradient(kernels, grad, ctx.pairs) if of_matrix else None
        else:
            grad_kernels, grad_matrix = _gradients(grad, kernels, matrix, ctx.residual, of_kernels, of_matrix)
        return grad_kernels, grad_matrix, grad.sum((1, 2, 3)) if of_bias else None, None, None


def _gradients(
    grad: Tensor, kernels: Tensor, matrix: Tensor, residual: bool, of_kernels: bool, of_matrix: bool
) -> tuple[Tensor | None, Tensor | None]:
    grad_kernels = torch.empty_like(kernels, memory_format=torch.contiguous_format) if of_kernels else None
    grad_matrix = torch.empty_like(matrix, memory_format=torch.contiguous_format) if of_matrix else None
    for some, tiles, other in _buffered(kernels):
        _read(tiles, grad[some])
        if of_matrix:
            _read(other, kernels[some])
            torch.bmm(tiles.transpose(1, 2), other, out=grad_matrix[some])
        if of_kernels:
            _multiply(tiles, matrix[some], residual, other)
            _write(grad_kernels[some], other)
    return grad_kernels, grad_matrix


def _buffered(kernels: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield slices of the groups, each with two buffers (groups, I, T)."""
    groups, filters, inputs, taps = kernels.shape
    # A GPU gains nothing from the cache, and loses time with many small calls.
    step = groups if kernels.is_cuda else max(1, min(groups, BUFFER // (filters * taps * inputs)))
    one, other = (kernels.new_empty(step, inputs, filters * taps) for _ in range(2))
    for first in range(0, groups, step):
        size = min(step, groups - first)
        yield slice(first, first + size), one[:size], other[:size]


def _read(tiles: Tensor, kernels: Tensor) -> None:
    """Write the tiles of ``kernels`` to a buffer."""
    groups, filters, inputs, taps = kernels.shape
    tiles.view(groups, inputs, filters, taps).copy_(kernels.transpose(1, 2))


def _multiply(tiles: Tensor, matrix: Tensor, residual: bool, out: Tensor) -> None:
    """Multiply tiles (groups, I, T) by one matrix (T, T) per group, adding the tiles if ``residual``."""
    if residual:
        torch.baddbmm(tiles, tiles, matrix, out=out)
    else:
        torch.bmm(tiles, matrix, out=out)


def _write(kernels: Tensor, tiles: Tensor) -> None:
    """Write tiles back in the order of ``kernels``."""
    groups, filters, inputs, taps = kernels.shape
    kernels.copy_(tiles.view(groups, inputs, filters, taps).transpose(1, 2))


def _tiles(kernels: Tensor) -> Tensor:
    """Reorder (G, F, I, P) to (G, I, F * P)."""
    return kernels.transpose(1, 2).flatten(2)
