"""l1_distance against naive loops in float64: geometry, gradients, memory bound, chunks, empty batches, compilation."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mmkerv.ops.kerv.l1 import chunked, l1_distance

# name: x, weight, stride, dilation, groups
CASES = {
    '1d': ((2, 3, 9), (4, 3, 3), (1,), (1,), 1),
    '1d_strided_groups': ((2, 4, 11), (6, 2, 3), (2,), (2,), 2),
    '2d': ((2, 3, 6, 5), (4, 3, 3, 2), (1, 1), (1, 1), 1),
    '2d_mixed': ((2, 4, 9, 8), (6, 2, 3, 2), (2, 1), (1, 3), 2),
    '2d_depthwise': ((2, 4, 5, 6), (8, 1, 3, 3), (1, 2), (1, 1), 4),
    '2d_pointwise': ((2, 4, 5, 5), (3, 4, 1, 1), (2, 2), (1, 1), 1),
    '2d_gaps': ((1, 2, 7, 7), (2, 2, 2, 2), (3, 4), (1, 1), 1),
    '3d': ((1, 2, 5, 4, 6), (4, 1, 2, 3, 2), (2, 1, 1), (1, 1, 2), 2),
}


def naive(x: np.ndarray, weight: np.ndarray, stride, dilation, groups) -> np.ndarray:
    """Compute equation 9a with plain loops."""
    kernel = weight.shape[2:]
    out = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation)]
    y = np.zeros((x.shape[0], weight.shape[0], *out))
    channels, filters = weight.shape[1], weight.shape[0] // groups
    for n, o, *p in itertools.product(*(range(size) for size in y.shape)):
        for c, *tap in itertools.product(range(channels), *(range(k) for k in kernel)):
            place = [i * s + t * d for i, s, t, d in zip(p, stride, tap, dilation)]
            y[(n, o, *p)] += abs(x[(n, o // filters * channels + c, *place)] - weight[(o, c, *tap)])
    return y


def tensors(name: str, dtype: torch.dtype = torch.float64) -> tuple:
    torch.manual_seed(0)
    x, weight, *geometry = CASES[name]
    return (
        torch.randn(x, dtype=dtype, requires_grad=True),
        torch.randn(weight, dtype=dtype, requires_grad=True),
    ), geometry


def gradients(x, weight, geometry, **options):
    """Return the distances and both gradients for a random upstream gradient."""
    y = l1_distance(x, weight, *geometry, **options)
    torch.manual_seed(1)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), torch.randn_like(y))]


@pytest.mark.parametrize('chunk_mib', [64.0, 0.0005, 1e-9])
@pytest.mark.parametrize('name', CASES)
def test_distances_agree_with_naive_loops(name, chunk_mib):
    (x, weight), geometry = tensors(name)
    y = l1_distance(x, weight, *geometry, chunk_mib=chunk_mib)
    expected = torch.from_numpy(naive(x.detach().numpy(), weight.detach().numpy(), *geometry))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_float32_distances_agree_with_naive_loops():
    (x, weight), geometry = tensors('2d_mixed', torch.float32)
    y = l1_distance(x, weight, *geometry)
    expected = torch.from_numpy(naive(x.detach().double().numpy(), weight.detach().double().numpy(), *geometry))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('name', CASES)
def test_gradients_pass_gradcheck(name):
    inputs, geometry = tensors(name)
    assert torch.autograd.gradcheck(lambda x, w: l1_distance(x, w, *geometry), inputs)


@pytest.mark.parametrize('name', CASES)
def test_gradients_without_cdist_agree_with_those_with_it(name, monkeypatch):
    inputs, geometry = tensors(name)
    inputs = [t.detach() for t in inputs]
    g = torch.randn_like(l1_distance(*inputs, *geometry))
    expected = chunked.chunked_gradients(g, *inputs, *geometry, 64.0, True, True)
    monkeypatch.setattr(chunked, 'FRUGAL_CDIST', ())
    actual = chunked.chunked_gradients(g, *inputs, *geometry, 0.001, True, True)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('frugal', [('cpu',), ()], ids=['cdist', 'sign'])
def test_subgradient_is_zero_where_input_equals_weight(frugal, monkeypatch):
    monkeypatch.setattr(chunked, 'FRUGAL_CDIST', frugal)
    x = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)
    weight = torch.tensor([[[2.0]]], requires_grad=True)
    l1_distance(x, weight, (1,), (1,)).backward(torch.tensor([[[10.0, 100.0, 1000.0]]]))
    assert x.grad.flatten().tolist() == [-10, 0, 1000]
    assert weight.grad.item() == 10 - 1000


@pytest.mark.parametrize('needs', [(True, False), (False, True)], ids=['x', 'weight'])
def test_only_the_requested_gradient_is_computed(needs):
    (x, weight), geometry = tensors('2d_mixed')
    _, grad_x, grad_weight = gradients(x, weight, geometry)
    leaves = [t.detach().requires_grad_(need) for t, need in zip((x, weight), needs)]
    y = l1_distance(*leaves, *geometry)
    torch.manual_seed(1)
    y.backward(torch.randn_like(y))
    for leaf, need, expected in zip(leaves, needs, (grad_x, grad_weight)):
        assert torch.equal(leaf.grad, expected) if need else leaf.grad is None


@pytest.mark.parametrize('name', CASES)
def test_the_gradient_can_be_differentiated(name):
    (x, weight), geometry = tensors(name)
    gradgrad = torch.autograd.gradgradcheck
    assert gradgrad(lambda x, weight: l1_distance(x, weight, *geometry).square(), (x, weight), atol=1e-6)


@pytest.mark.parametrize('name', CASES)
def test_the_change_is_the_directional_derivative(name):
    (x, weight), geometry = tensors(name)
    dx, dw = torch.randn_like(x), torch.randn_like(weight)
    y, change = torch.func.jvp(lambda x, weight: l1_distance(x, weight, *geometry), (x, weight), (dx, dw))
    step = 1e-7
    assert torch.equal(y, l1_distance(x, weight, *geometry))
    expected = (l1_distance(x + step * dx, weight + step * dw, *geometry) - y) / step
    torch.testing.assert_close(change, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('chunk_mib', [1e-9, 1e-3, 1e-2])
@pytest.mark.parametrize('name', CASES)
def test_chunk_size_does_not_change_results(name, chunk_mib):
    (x, weight), geometry = tensors(name)
    whole, in_chunks = (gradients(x, weight, geometry, chunk_mib=mib) for mib in (64.0, chunk_mib))
    assert torch.equal(whole[0], in_chunks[0])
    torch.testing.assert_close(in_chunks, whole, rtol=1e-12, atol=1e-12)


def test_chunks_cover_every_position_once_within_the_limit():
    for limit in range(1, 70):
        seen = torch.zeros(1, 4, 3, 5)
        for block in chunked._blocks((4, 3, 5), limit):
            assert seen[block].numel() <= limit
            seen[block] += 1
        assert seen.eq(1).all()


def peak_bytes(function) -> int:
    """Peak number of bytes that ``function`` allocates, including inside the kernels of torch."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    live = peak = allocations = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == '[memory]':
            live += event.nbytes()
            peak, allocations = max(peak, live), allocations + 1
    assert allocations
    return peak


@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('chunk_mib', [0.2, 0.1])
@pytest.mark.parametrize('frugal', [('cpu',), ()], ids=['cdist', 'sign'])
def test_memory_stays_below_the_bound(frugal, chunk_mib, groups, monkeypatch):
    monkeypatch.setattr(chunked, 'FRUGAL_CDIST', frugal)
    torch.manual_seed(0)
    # Unbounded, forward takes 0.4 MiB and backward 0.8 MiB; the broadcast form takes 11 MiB.
    x = torch.randn(2, 16, 20, 20, requires_grad=True)
    weight = torch.randn(32, 16 // groups, 3, 3, requires_grad=True)
    results = []
    peak = peak_bytes(lambda: results.append(l1_distance(x, weight, (1, 1), (1, 1), groups, chunk_mib=chunk_mib)))
    (y,) = results
    bound = chunk_mib * 2**20
    assert peak - 4 * y.numel() <= bound
    grad = torch.randn_like(y)
    assert peak_bytes(lambda: y.backward(grad)) - 4 * (x.numel() + weight.numel()) <= bound


def test_memory_stays_below_the_bound_with_a_large_weight():
    x, weight = torch.randn(1, 64, 4, 4), torch.randn(64, 64, 3, 3)
    bound, geometry = 0.1 * 2**20, ((1, 1), (1, 1), 1, 0.1)
    results = []
    peak = peak_bytes(lambda: results.append(chunked.chunked_distance(x, weight, *geometry)))
    assert peak - 4 * results[0].numel() <= bound < 4 * weight.numel()
    grad = torch.randn_like(results[0])
    peak = peak_bytes(lambda: chunked.chunked_gradients(grad, x, weight, *geometry, True, True))
    assert peak - 4 * (x.numel() + weight.numel()) <= bound


def test_backward_saves_only_the_input_and_the_weight():
    (x, weight), geometry = tensors('2d')
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        l1_distance(x, weight, *geometry)
    assert sorted(t.data_ptr() for t in saved) == sorted([x.data_ptr(), weight.data_ptr()])


@pytest.mark.parametrize('name', CASES)
def test_empty_batch_gives_an_empty_result_and_zero_weight_gradients(name):
    (x, weight), geometry = tensors(name)
    empty = x.detach()[:0].requires_grad_()
    y = l1_distance(empty, weight, *geometry)
    y.sum().backward()
    assert y.shape == (0, *l1_distance(x, weight, *geometry).shape[1:])
    assert empty.grad.shape == empty.shape and weight.grad.eq(0).all()


@pytest.mark.parametrize('name', CASES)
def test_meta_tensors_give_the_right_shapes(name):
    (x, weight), geometry = tensors(name)
    on_meta = [t.detach().to('meta').requires_grad_() for t in (x, weight)]
    y = l1_distance(*on_meta, *geometry)
    assert y.device.type == 'meta' and y.shape == l1_distance(x, weight, *geometry).shape
    y.sum().backward()
    assert [t.grad.shape for t in on_meta] == [x.shape, weight.shape]


@pytest.mark.parametrize('layout', ['channels_last', 'expanded', 'sliced'])
def test_memory_layout_does_not_change_results(layout):
    (x, weight), geometry = tensors('2d_mixed')
    if layout == 'channels_last':
        other = [t.detach().to(memory_format=torch.channels_last) for t in (x, weight)]
    elif layout == 'expanded':
        x = x.detach()[:1].expand(2, -1, -1, -1).requires_grad_()
        other = [x.detach().contiguous(), weight.detach()]
    else:
        other = [torch.nn.functional.pad(x.detach(), (1, 2, 3, 0))[..., 3:, 1:-2], weight.detach()]
    actual = gradients(*(t.requires_grad_() for t in other), geometry)
    torch.testing.assert_close(actual, gradients(x, weight, geometry), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('dynamic', [False, True])
@pytest.mark.parametrize('name', ['1d', '2d_mixed', '3d'])
def test_compiles_without_graph_breaks(name, dynamic):
    (x, weight), geometry = tensors(name)
    torch._dynamo.reset()

    def distance(x, weight):
        return l1_distance(x * 2, weight, *geometry, chunk_mib=0.001)

    compiled = torch.compile(distance, fullgraph=True, backend='aot_eager', dynamic=dynamic)
    for batch in (x, x.detach()[:1].requires_grad_()):
        results = []
        for function in (distance, compiled):
            y = function(batch, weight)
            results.append([y.detach(), *torch.autograd.grad(y.square().sum(), (batch, weight))])
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_inference_and_no_grad_modes_give_the_same_distances():
    (x, weight), geometry = tensors('2d')
    expected = l1_distance(x, weight, *geometry)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = l1_distance(x, weight, *geometry)
        assert torch.equal(y, expected) and not y.requires_grad


@pytest.mark.parametrize('chunk_mib', [0, -1.0, float('nan'), float('inf')])
def test_an_invalid_chunk_size_raises_an_error(chunk_mib):
    (x, weight), geometry = tensors('1d')
    with pytest.raises(ValueError, match='chunk_mib must be finite and > 0'):
        l1_distance(x, weight, *geometry, chunk_mib=chunk_mib)


def test_an_input_smaller_than_the_kernel_raises_an_error():
    with pytest.raises(ValueError, match=r'dilated kernel \(5, 3\), got \(4, 9\)'):
        l1_distance(torch.ones(1, 1, 4, 9), torch.ones(1, 1, 3, 3), (1, 1), (2, 1))


def test_importing_the_operators_does_not_import_triton():
    code = 'import sys, mmkerv.ops, mmkerv.ops.kerv.l1; print("mmkerv.ops.kerv.l1.triton_kernels" in sys.modules)'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == 'False'
