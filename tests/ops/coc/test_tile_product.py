import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from mmkerv.ops import CoCConv2d
from mmkerv.ops.coc import tile_product
from mmkerv.ops.coc.tile_product import tile_product as product


def given(groups=5, filters=4, inputs=3, taps=9, bias=True):
    torch.manual_seed(0)
    length = filters * taps
    x = torch.randn(groups, filters, inputs, taps, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(groups, length, length, dtype=torch.float64, requires_grad=True)
    return x, matrix, torch.randn(groups, dtype=torch.float64, requires_grad=True) if bias else None


def definition(x, matrix, bias, residual):
    groups, filters, _, taps = x.shape
    y = torch.einsum('gfpeq,geiq->gfip', matrix.view(groups, filters, taps, filters, taps), x)
    y = y + x if residual else y
    return y if bias is None else y + bias.view(-1, 1, 1, 1)


@pytest.fixture(params=[1, 250, 2**18], ids=['a group at a time', 'with a rest', 'at once'])
def buffer(request, monkeypatch):
    monkeypatch.setattr(tile_product, 'BUFFER', request.param)


@pytest.mark.usefixtures('buffer')
@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('laid_out', ['contiguous', 'strided'])
def test_product_and_gradients_agree_with_the_definition(residual, bias, laid_out):
    x, matrix, b = given(bias=bias)
    if laid_out == 'strided':
        x = x.detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_()
    weights = torch.randn(x.shape, dtype=x.dtype)
    inputs = [t for t in (x, matrix, b) if t is not None]
    found, expected = product(x, matrix, b, residual), definition(x, matrix, b, residual)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures('buffer')
@pytest.mark.parametrize('residual', [False, True])
def test_product_is_differentiable_twice(residual):
    x, matrix, b = given(groups=2, filters=2, inputs=2, taps=3)
    assert gradcheck(lambda *t: product(*t, residual), (x, matrix, b))
    assert gradgradcheck(lambda *t: product(*t, residual), (x, matrix, b))


@pytest.mark.parametrize('wanted', [0, 1, 2])
def test_only_the_requested_gradient_is_computed(wanted):
    inputs = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(given())]
    product(*inputs, True).sum().backward()
    expected = torch.autograd.grad(definition(*inputs, True).sum(), inputs[wanted])[0]
    for i, t in enumerate(inputs):
        assert (t.grad is not None) == (i == wanted)
    torch.testing.assert_close(inputs[wanted].grad, expected)


def test_no_tiles_are_saved_for_backward():
    conv, kept = CoCConv2d(64, 64, 3, bias=False), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        kernel = conv.kernel()
    own = {t.untyped_storage().data_ptr() for t in (*conv.parameters(), conv._selector, kernel)}
    others = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    extra = sum(size for place, size in others.items() if place not in own)
    # Only the matrices are saved: 36 x 36 for each group of four filters.
    assert extra == 64 // 4 * 36**2 * 4 < kernel.nbytes
    kernel.sum().backward()


def test_identity_start_stays_exact_with_rounded_products(monkeypatch):
    """Simulates TensorFloat-32 on a GPU with coarser rounding."""
    exact = torch.baddbmm

    def rounded(y, a, b, *, out):
        return exact(y, a.bfloat16().float(), b.bfloat16().float(), out=out)

    monkeypatch.setattr(torch, 'baddbmm', rounded)
    conv = CoCConv2d(8, 8, 3)
    assert torch.equal(conv.kernel(), conv.weight)


@pytest.mark.parametrize('groups', [1, 2])
def test_missing_filters_are_handled_in_channels_last(groups):
    conv = CoCConv2d(18, 18, 3, groups=groups, super_init='kaiming')
    expected = conv.kernel().detach().clone()
    found = conv.to(memory_format=torch.channels_last).kernel()
    torch.testing.assert_close(found, expected)
    found.sum().backward()
