"""CoCConv2d(recompute=True): the numbers of keeping the kernel, without keeping it."""

import gc

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from mmkerv.ops import CoCConv2d, frozen_kernels
from mmkerv.ops.core.recompute import convolve_and_forget

OPTIONS = {
    'default': {},
    'grouped': {'groups': 2, 'stride': 2, 'bias': False},
    'depthwise': {'groups': 8},
    'reflect': {'padding_mode': 'reflect'},
    'two layers': {'num_layers': 2, 'share': 'co'},
    'dense': {'share': None},
    'norms': {'super_norm': 'ln', 'standardize': True},
}


def pair(**options):
    torch.manual_seed(0)
    kept = CoCConv2d(8, 16, 3, padding=1, super_init='auto' if options.get('standardize') else 'kaiming', **options)
    again = CoCConv2d(8, 16, 3, padding=1, recompute=True, **{**options, 'super_init': kept.options.super_init})
    again.load_state_dict(kept.state_dict())
    return kept, again


def step(operator, x, dtype=None):
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
        y = operator(x)
    y.float().square().sum().backward()
    return y.detach(), x.grad, [p.grad for p in operator.parameters()]


@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', OPTIONS)
def test_gradients_equal_those_with_a_saved_kernel(name, dtype):
    kept, again = pair(**OPTIONS[name])
    x = torch.randn(2, 8, 9, 9)
    (y, dx, grads), (y2, dx2, grads2) = step(kept, x, dtype), step(again, x, dtype)
    assert torch.equal(y, y2) and torch.equal(dx, dx2)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads2, strict=True))


@pytest.mark.parametrize('recompute', [False, True])
def test_the_kernel_is_not_saved_for_backward(recompute):
    operator, made = CoCConv2d(64, 64, 3, padding=1, recompute=recompute), []

    def kernel():
        result = CoCConv2d.kernel(operator)
        made.append(StorageWeakRef(result.untyped_storage()))
        return result

    operator.kernel = kernel
    y = operator(torch.randn(1, 64, 4, 4, requires_grad=True))
    gc.collect()
    assert [reference.expired() for reference in made] == [recompute]
    y.sum().backward()
    # Once for the gradient by x; what the association saves is computed again too, but not its result.
    assert len(made) == (2 if recompute else 1)


def test_inside_frozen_kernels_it_is_computed_once():
    _, again = pair()
    again.eval()
    with torch.no_grad(), frozen_kernels(again):
        first = again._frozen_kernel
        again(torch.ones(1, 8, 5, 5))
        assert again._frozen_kernel is first


def test_parameters_changed_before_backward_are_refused():
    _, again = pair()
    y = again(torch.randn(1, 8, 5, 5, requires_grad=True))
    with torch.no_grad():
        again.weight.mul_(2)
    with pytest.raises(RuntimeError, match='changed since forward'):
        y.sum().backward()


@pytest.mark.parametrize('learns', [False, True], ids=['parameters', 'input too'])
def test_other_parameters_in_backward_are_refused(learns):
    """Those of torch.func.functional_call are gone when it returns; the kernel would be made from the layer's own."""
    _, again = pair()
    given = {name: (2 * p.detach()).requires_grad_() for name, p in again.named_parameters()}
    y = torch.func.functional_call(again, given, (torch.randn(1, 8, 5, 5, requires_grad=learns),))
    with pytest.raises(RuntimeError, match=r'before torch\.func\.functional_call returns'):
        y.sum().backward()


def test_compiles_and_folds():
    kept, again = pair()
    x = torch.randn(1, 8, 6, 6)
    assert torch.allclose(torch.compile(again, fullgraph=True, backend='aot_eager')(x), kept(x), atol=1e-6)
    assert torch.equal(again.to_conv2d()(x), kept.to_conv2d()(x))
    assert 'recompute=True' in repr(again) and 'recompute' not in repr(kept)


def test_gradcheck():
    w, x = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 1, 3, 3), (1, 1, 5, 5)))
    assert torch.autograd.gradcheck(
        lambda w, x: convolve_and_forget(x, lambda: w.exp(), torch.conv2d, lambda: [w]), (w, x)
    )


def test_recompute_must_be_a_boolean():
    with pytest.raises(TypeError, match='recompute'):
        CoCConv2d(4, 4, 3, recompute='yes')
