"""The compiled product of tiles and matrices against the one of torch, and where it is not used."""

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmkerv.ops import CoCConv2d
from mmkerv.ops.coc import compiled, functional
from mmkerv.ops.coc.functional import spatial_association, tap_pairs, tap_selector
from mmkerv.ops.coc.tile_product import tile_product

built = pytest.mark.skipif(not compiled.is_built(), reason='the extension of CoC is not built')
# association, super size, super dilation
GEOMETRIES = [(2, (3, 3), (2, 2)), (2, (5, 5), (1, 1)), (1, (3, 3), (1, 1)), (3, (3, 5), (2, 1)), (2, (7, 7), (1, 1))]


def tiles(association, size, dilation, groups=3, inputs=37, dtype=torch.float32):
    """Return kernels, matrices and the pairs that the matrices connect."""
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(groups, association**2, inputs, 9, generator=generator, dtype=dtype)
    selector = tap_selector(association, (3, 3), size, dilation).to(dtype)
    supers = torch.randn(groups, math.prod(size), generator=generator, dtype=dtype)
    matrix = (supers @ selector).view(groups, association**2 * 9, -1)
    return kernels, matrix, tap_pairs(association, (3, 3), size, dilation)


def results(kernels, matrix, pairs, residual):
    """Return the product and its gradients, those of the matrix where it connects taps."""
    inputs = [tensor.clone().requires_grad_() for tensor in (kernels, matrix)]
    y = tile_product(*inputs, None, residual, pairs)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y))
    return y.detach(), inputs[0].grad, inputs[1].grad * (matrix != 0)


@built
@pytest.mark.parametrize('inputs', [1, 7, 8, 31, 32, 33, 70])
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_product_and_gradients(geometry, inputs):
    kernels, matrix, pairs = tiles(*geometry, inputs=inputs)
    for residual in (False, True):
        wanted = results(kernels.double(), matrix.double(), None, residual)
        for found, exact in zip(results(kernels, matrix, pairs, residual), wanted, strict=True):
            torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


@built
def test_gradients_of_any_memory_layout():
    kernels, matrix, pairs = tiles(*GEOMETRIES[0])
    sums = []
    for dtype, some in ((torch.float32, pairs), (torch.float64, None)):
        inputs = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (kernels, matrix)]
        # The gradient of a sum is one number, expanded.
        tile_product(*inputs, None, True, some).sum().backward()
        sums.append([inputs[0].grad.float(), inputs[1].grad.float() * (matrix.detach() != 0)])
    torch.testing.assert_close(*sums, rtol=1e-5, atol=1e-4)


@built
def test_result_does_not_depend_on_the_threads():
    kernels, matrix, pairs = tiles(*GEOMETRIES[0], groups=5)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            found.append(results(kernels, matrix, pairs, residual=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@built
def test_neighbouring_filters_and_groups_are_not_mixed():
    kernels, matrix, pairs = tiles(*GEOMETRIES[0])
    kernels[1] = math.nan
    y = tile_product(kernels, matrix, None, True, pairs)
    assert y[1].isnan().all() and not y[[0, 2]].isnan().any()
    # No read beyond the ends of the tensors: the same within larger memory full of NaN.
    memory = torch.full((kernels.numel() + 64,), math.nan)
    inside = memory[32:-32].view_as(kernels).copy_(tiles(*GEOMETRIES[0])[0])
    for found in results(inside, matrix, pairs, residual=True):
        assert not found.isnan().any()


@built
def test_a_layer_computes_the_same_with_and_without(monkeypatch):
    torch.manual_seed(0)
    layer = CoCConv2d(12, 10, 3, super_init='kaiming', super_bias=True)
    for value in layer.super_layers:
        torch.nn.init.normal_(value.bias)
    used = []
    original = compiled.product
    monkeypatch.setattr(compiled, 'product', lambda *args, **kwargs: used.append(1) or original(*args, **kwargs))

    def outcome():
        layer.zero_grad()
        kernel = layer.kernel()
        kernel.square().sum().backward()
        return [
            kernel.detach(),
            *(parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None),
        ]

    with_it = outcome()
    assert len(used) == 2
    monkeypatch.setattr(compiled, '_association', None)
    without = outcome()
    assert len(used) == 2 and len(with_it) == 4
    torch.testing.assert_close(with_it, without, rtol=1e-5, atol=1e-5)


@built
def test_second_derivatives():
    geometry = GEOMETRIES[0]
    weight = torch.randn(8, 9, 3, 3, generator=torch.Generator().manual_seed(0))
    supers = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(1))

    def penalty(dtype):
        w, s = (tensor.to(dtype).requires_grad_() for tensor in (weight, supers))
        kernel = spatial_association(w, [s], super_dilation=geometry[2])
        (grad,) = torch.autograd.grad(kernel.square().sum(), w, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (w, s))

    for found, exact in zip(penalty(torch.float32), penalty(torch.float64), strict=True):
        torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


@built
def test_where_it_does_not_apply():
    kernels = torch.zeros(2, 4, 8, 9)
    assert compiled.applies(kernels) and compiled.applies(torch.nn.Parameter(kernels))
    assert not compiled.applies(kernels.double()) and not compiled.applies(torch.zeros(2, 4, 8, 25))
    assert not compiled.applies(kernels.to('meta'))
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(kernels)
        assert not compiled.applies(kernels)
    assert not compiled.applies(fake) and compiled.applies(kernels)


def test_multiply_adds_are_counted():
    layer = CoCConv2d(8, 8, 3, super_init='kaiming')
    with FlopCounterMode(display=False) as counter:
        layer.kernel()
    # The matrices of two tiles from their super kernels, and their products with the tiles.
    assert counter.get_total_flops() == 2 * (2 * 9 * 36 * 36 + 2 * 8 * 36 * 36)


def test_pairs_are_the_connections_of_the_table():
    table = functional.tap_table(2, (3, 3), (3, 3), (2, 2))
    connected = {tuple(pair) for pair in (table != 9).nonzero().tolist()}
    triples = list(zip(*[iter(tap_pairs(2, (3, 3), (3, 3), (2, 2)).forward)] * 3, strict=True))
    assert len(triples) == 64 and triples == sorted(triples)
    assert connected == {
        (own * 9 + tap, other * 9 + tap + shift)
        for own, other, shift in triples
        for tap in range(9)
        if (own * 9 + tap, other * 9 + tap + shift) in connected and 0 <= tap + shift < 9
    }
