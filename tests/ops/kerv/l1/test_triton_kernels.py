"""The Triton kernels of l1_distance against its chunked form: interpreted on the CPU, compiled for a GPU, run on one.

Triton reads TRITON_INTERPRET when it is imported, so the interpreted kernels run in a separate process: this file.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmkerv.ops.kerv.l1 import l1_distance
from mmkerv.ops.kerv.l1.chunked import chunked_distance, chunked_gradients

ROOT = Path(__file__).resolve().parents[4]

# name: x, weight, stride, dilation, groups. Tiles are 32 or 64 wide; narrower axes use their next power of two.
CASES = {
    '1d': ((2, 3, 9), (5, 3, 3), (2,), (1,), 1),
    '1d_dilated': ((3, 2, 40), (3, 2, 4), (1,), (3,), 1),
    '2d': ((2, 3, 7, 9), (6, 3, 3, 3), (1, 1), (1, 1), 1),
    '2d_mixed_groups': ((2, 4, 9, 8), (6, 2, 3, 2), (2, 1), (1, 2), 2),
    '2d_depthwise': ((2, 3, 9, 9), (3, 1, 3, 3), (1, 2), (1, 1), 3),
    '2d_pointwise': ((1, 5, 4, 4), (3, 5, 1, 1), (2, 2), (1, 1), 1),
    '2d_gaps': ((1, 2, 8, 9), (2, 2, 2, 2), (3, 4), (1, 1), 1),
    '2d_more_than_a_tile': ((2, 34, 3, 6), (66, 34, 2, 1), (1, 1), (1, 1), 1),
    '3d': ((2, 2, 5, 6, 4), (3, 2, 2, 3, 2), (1, 2, 1), (2, 1, 1), 1),
    '3d_groups': ((1, 4, 4, 4, 3), (4, 2, 2, 1, 2), (1, 1, 1), (1, 1, 1), 2),
    'empty_batch': ((0, 2, 5, 5), (3, 2, 3, 3), (1, 1), (1, 1), 1),
}
VARIANTS = ('float32', 'float64', 'channels_last', 'expanded', 'few_parts')


def differences(case: str, variant: str) -> list[float]:
    """Largest errors of the distances and of the gradients of x and weight, relative to the largest value."""
    from mmkerv.ops.kerv.l1.triton_kernels import triton_distance, triton_gradients

    torch.manual_seed(0)
    x_shape, weight_shape, *geometry = CASES[case]
    dtype = torch.float32 if variant == 'float32' else torch.float64
    x, weight = torch.randn(x_shape, dtype=dtype), torch.randn(weight_shape, dtype=dtype)
    # Some elements equal their weights.
    x, weight = x.mul(4).round().div(4), weight.mul(4).round().div(4)
    # Memory for three partial sums of the weight's gradient, and for none.
    chunk_mib = {'few_parts': 5.5 * weight.nbytes / 2**20, 'channels_last': 1e-9}.get(variant, 64.0)
    y = chunked_distance(x, weight, *geometry, 64.0)
    grad = torch.randn_like(y)
    if variant == 'expanded':
        x, grad = x[:1].expand(x.shape), torch.ones((), dtype=dtype).expand(y.shape)
        y = chunked_distance(x, weight, *geometry, 64.0)
    expected = [y, *chunked_gradients(grad, x, weight, *geometry, 64.0, True, True)]
    if variant == 'channels_last':
        x, weight, grad = (t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (x, weight, grad))
    actual = [triton_distance(x, weight, *geometry, chunk_mib)]
    actual += triton_gradients(grad, x, weight, *geometry, chunk_mib, True, True)
    if case == '1d':
        for need_x, need_weight in ((True, False), (False, True)):
            one = triton_gradients(grad, x, weight, *geometry, chunk_mib, need_x, need_weight)
            assert torch.equal(one[need_weight], actual[1 + need_weight]) and one[need_x].numel() == 0
    assert [t.shape for t in actual] == [t.shape for t in expected]
    assert {t.dtype for t in actual} == {dtype}
    assert [t.stride() for t in actual[1:]] == [torch.empty_like(t).stride() for t in (x, weight)]
    return [float((a - e).abs().max() / e.abs().max()) if e.any() else float(a.any()) for a, e in zip(actual, expected)]


def interpret() -> None:
    """Print the differences of every case as JSON; the process must have been started with TRITON_INTERPRET=1."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_index(tensor, *scope):
        # Triton 3.6 turns arrays of one element into integers by int(), which numpy 2.4 refuses (triton issue 9171).
        patch(tensor, *scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    interpreter._patch_lang_tensor = patch_and_index
    print(json.dumps({case: {variant: differences(case, variant) for variant in VARIANTS} for case in CASES}))


@pytest.fixture(scope='module')
def needs_triton():
    if torch.__version__ < (2, 6):
        pytest.skip('the Triton kernels need torch >= 2.6')
    pytest.importorskip('triton', reason='Triton is not installed')


@pytest.fixture(scope='module')
def interpreted(needs_triton) -> dict:
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': path}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('case', CASES)
def test_interpreted_kernels_agree_with_the_chunked_form(interpreted, case, variant):
    assert max(interpreted[case][variant]) < (1e-5 if variant == 'float32' else 1e-13)


@pytest.mark.parametrize('dtype', ['fp32', 'fp64'])
@pytest.mark.parametrize('integer', ['i32', 'i64'])
@pytest.mark.parametrize('name', ['distance_kernel', 'input_gradient_kernel', 'weight_gradient_kernel'])
def test_kernels_compile_for_a_gpu(needs_triton, name, integer, dtype):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if tuple(int(part) for part in triton.__version__.split('.')[:2]) < (3, 6):
        pytest.skip('compiling without a GPU is written for Triton >= 3.6')
    from mmkerv.ops.kerv.l1 import triton_kernels

    kernel = getattr(triton_kernels, name)
    tensors = {'x', 'w', 'y', 'grad', 'grad_x', 'partial'}
    blocks = {arg: 32 for arg in kernel.arg_names if arg.startswith('BLOCK')}
    signature = dict.fromkeys(kernel.arg_names, integer)
    signature.update({arg: f'*{dtype}' for arg in signature if arg in tensors})
    signature.update({arg: '*i64' for arg in signature if arg.endswith('_table')})
    signature.update(dict.fromkeys(blocks, 'constexpr'))
    source = ASTSource(fn=kernel, signature=signature, constexprs=blocks)
    ptx = triton.compile(source, target=GPUTarget('cuda', 90, 32), options={'num_warps': triton_kernels.WARPS}).asm[
        'ptx'
    ]
    # Sums have the dtype of the input and stay in registers.
    assert 'add.f64' in ptx if dtype == 'fp64' else 'add' in ptx and '.f64' not in ptx
    assert '.local' not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('deterministic', [False, True], ids=['triton', 'chunked'])
@pytest.mark.parametrize('case', CASES)
def test_gpu_results_agree_with_cpu_results(case, deterministic, dtype):
    x_shape, weight_shape, *geometry = CASES[case]
    torch.manual_seed(0)
    x, weight = torch.randn(x_shape, dtype=dtype), torch.randn(weight_shape, dtype=dtype)
    grad = torch.randn_like(l1_distance(x, weight, *geometry))
    results = []
    torch.use_deterministic_algorithms(deterministic)
    try:
        for device in ('cpu', 'cuda'):
            leaves = [t.to(device).requires_grad_() for t in (x, weight)]
            y = l1_distance(*leaves, *geometry)
            results.append([t.cpu() for t in (y.detach(), *torch.autograd.grad(y, leaves, grad.to(device)))])
    finally:
        torch.use_deterministic_algorithms(False)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(*results, rtol=tolerance, atol=100 * tolerance)
    used = 'mmkerv.ops.kerv.l1.triton_kernels' in sys.modules
    if not deterministic and torch.__version__ >= (2, 6) and importlib.util.find_spec('triton'):
        assert used


@pytest.mark.gpu
def test_gpu_gradients_are_the_same_in_every_run():
    torch.manual_seed(0)
    x, weight = torch.randn(8, 64, 30, 30, device='cuda'), torch.randn(64, 64, 3, 3, device='cuda')
    runs = []
    for _ in range(3):
        leaves = [t.clone().requires_grad_() for t in (x, weight)]
        y = l1_distance(*leaves, (1, 1), (1, 1))
        runs.append(torch.autograd.grad(y.square().sum(), leaves))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


if __name__ == '__main__':
    interpret()
