"""The compiled loops of l1_distance against its chunked form: geometry, ties, memory, recompilation, no compiler."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch.nn import functional as F

from mmkerv.ops.kerv.l1 import l1_distance
from mmkerv.ops.kerv.l1.chunked import chunked_distance, chunked_gradients
from tests.ops.kerv.l1.test_dispatch import CASES, peak_bytes

if torch.__version__ < (2, 6):
    pytest.skip('the compiled loops need torch >= 2.6', allow_module_level=True)

from mmkerv.ops.kerv.l1 import compiled_cpu

MORE = {
    '1d_long_kernel': ((2, 2, 40), (3, 2, 20), (1,), (1,), 1),
    '2d_one_of_each': ((1, 1, 5, 5), (1, 1, 5, 5), (1, 1), (1, 1), 1),
    '2d_patches': ((2, 3, 8, 9), (5, 3, 4, 4), (4, 4), (1, 1), 1),
    '2d_dilation_is_stride': ((2, 8, 9, 11), (12, 4, 3, 3), (2, 3), (2, 3), 2),
    '3d_all': ((2, 4, 9, 8, 7), (4, 2, 3, 2, 2), (2, 3, 1), (1, 2, 3), 2),
}
SHAPES = CASES | MORE


@pytest.fixture
def eager(monkeypatch):
    """Run the loops uncompiled: torch broadcasts them, which is fine for small tensors."""
    monkeypatch.setattr(compiled_cpu, 'WORTHWHILE', 0)
    monkeypatch.setattr(compiled_cpu, '_compiled', lambda loop: loop)
    monkeypatch.setattr(compiled_cpu, '_refuse_eager', lambda: None)
    monkeypatch.setattr(compiled_cpu, '_compilation_failed', False)


@pytest.fixture
def compiled(monkeypatch):
    monkeypatch.setattr(compiled_cpu, 'WORTHWHILE', 0)
    monkeypatch.setattr(compiled_cpu, '_compilation_failed', False)


def halves(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Multiples of 1/2, so that many elements equal their weight."""
    return torch.randn(shape, dtype=dtype).mul(2).round().div(2)


def compare(x, weight, geometry, **tolerance):
    y = chunked_distance(x, weight, *geometry, 64.0)
    torch.testing.assert_close(compiled_cpu.loop_distance(x, weight, *geometry, 64.0), y, **tolerance)
    grad = torch.randn_like(y)
    options = *geometry, 64.0, True, True
    expected = chunked_gradients(grad, x, weight, *options)
    torch.testing.assert_close(compiled_cpu.loop_gradients(grad, x, weight, *options), expected, **tolerance)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=['float64', 'float32'])
@pytest.mark.parametrize('name', SHAPES)
def test_loops_agree_with_the_chunked_form_in_every_geometry(name, dtype, eager):
    torch.manual_seed(0)
    x, weight, *geometry = SHAPES[name]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    compare(halves(*x, dtype=dtype), halves(*weight, dtype=dtype), geometry, rtol=tolerance, atol=tolerance)


def test_positions_that_wrap_around_an_axis_do_not_reach_the_result(eager):
    """The loops compute positions that wrap around an axis too; their values must be dropped."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    x[:, :, :, 4] = torch.inf
    y = compiled_cpu.loop_distance(x, weight, (1, 1), (1, 1), 1, 64.0)
    assert y[..., :2].isfinite().all() and y[..., 2].isinf().all()
    grads = compiled_cpu.loop_gradients(torch.randn_like(y), x, weight, (1, 1), (1, 1), 1, 64.0, True, True)
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize('needs', [(True, False), (False, True)], ids=['x', 'weight'])
def test_only_the_requested_gradient_is_computed(needs, eager):
    torch.manual_seed(0)
    x, weight, geometry = torch.randn(2, 4, 6, 6), torch.randn(4, 2, 3, 3), ((1, 2), (1, 1), 2, 64.0)
    grad = torch.randn(2, 4, 4, 2)
    both = compiled_cpu.loop_gradients(grad, x, weight, *geometry, True, True)
    one = compiled_cpu.loop_gradients(grad, x, weight, *geometry, *needs)
    assert all(torch.equal(a, b) if need else not a.numel() for a, b, need in zip(one, both, needs))


def test_small_and_empty_inputs_are_not_compiled(monkeypatch):
    monkeypatch.setattr(compiled_cpu, '_compiled', lambda loop: pytest.fail('compiled'))
    for n in (0, 2):
        x, weight = torch.randn(n, 4, 9, 9, requires_grad=True), torch.randn(4, 4, 3, 3, requires_grad=True)
        y = torch.ops.mmkerv.l1_distance(x, weight, (1, 1), (1, 1), 1, 64.0, True)
        y.sum().backward()
        assert torch.equal(y, l1_distance(x, weight, (1, 1), (1, 1)))


def test_eager_models_use_the_chunked_form(eager, monkeypatch):
    monkeypatch.setattr(compiled_cpu, '_distance', lambda *_: pytest.fail('looped'))
    l1_distance(torch.randn(1, 1, 4), torch.randn(1, 1, 2), (1,), (1,))


@pytest.mark.parametrize('switch', ['force_eager', 'no compiler'])
def test_failed_compilation_warns_once_and_falls_back_to_chunks(switch, compiled, monkeypatch):
    """Without compilation the loops would need as much memory as the broadcast form."""
    x, weight, geometry = torch.randn(2, 3, 7), torch.randn(4, 3, 3), ((1,), (1,), 1, 64.0)
    if switch == 'force_eager':
        monkeypatch.setattr(compiled_cpu, '_compiled', lambda loop: loop)
    else:

        def fail(graph, inputs):
            raise RuntimeError('g++ not found')

        monkeypatch.setattr(compiled_cpu, '_compiled', lambda loop: torch.compile(loop, fullgraph=True, backend=fail))
    with pytest.warns(UserWarning, match=r'install a C\+\+ compiler') as record:
        y = compiled_cpu.loop_distance(x, weight, *geometry)
    assert len(record) == 1 and torch.equal(y, chunked_distance(x, weight, *geometry))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        compiled_cpu.loop_gradients(torch.randn_like(y), x, weight, *geometry, True, True)


OTHER_VECTORS = """
import torch
from mmkerv.ops.kerv.l1 import compiled_cpu
compiled_cpu.WORTHWHILE = 0
x, weight = torch.arange(100.0).reshape(1, 1, 100), torch.zeros(1, 1, 2)
torch.testing.assert_close(compiled_cpu.loop_distance(x, weight, (1,), (1,), 1, 64.0), x[..., :-1] + x[..., 1:])
assert not compiled_cpu._compilation_failed
"""


@pytest.mark.slow
def test_processors_with_other_vector_widths_can_share_a_compilation_cache():
    if torch.backends.cpu.get_cpu_capability() != 'AVX512':
        pytest.skip('a processor without AVX512')
    for capability in ('avx512', 'avx2'):
        environment = os.environ | {'ATEN_CPU_CAPABILITY': capability}
        run = subprocess.run([sys.executable, '-c', OTHER_VECTORS], capture_output=True, text=True, env=environment)
        assert run.returncode == 0, f'{capability}: {run.stderr}'


NO_COMPILER = """
import torch
from mmkerv.ops.kerv.l1 import compiled_cpu
compiled_cpu.WORTHWHILE = 0
from mmkerv.ops.kerv.l1 import l1_distance
x, weight = torch.randn(2, 3, 7, requires_grad=True), torch.randn(4, 3, 3)
model = torch.compile(lambda x: l1_distance(x, weight, (1,), (1,)), backend='aot_eager')
model(x).sum().backward()
"""


@pytest.mark.slow
def test_a_missing_compiler_gives_one_warning(tmp_path):
    environment = {'CXX': 'no-such-compiler', 'PATH': '', 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path)}
    run = subprocess.run([sys.executable, '-c', NO_COMPILER], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count('install a C++ compiler') == 1


@pytest.mark.slow
def test_compiled_model_is_exact_deterministic_and_saves_memory(compiled):
    """Exact, the same in every run, compiled once for all batch sizes, and without a broadcast tensor."""
    torch.manual_seed(0)
    weight = halves(32, 16, 3, 2).requires_grad_()

    def distance(x):
        return l1_distance(F.pad(x * 2, (1, 1, 1, 1)), weight, (2, 1), (1, 2), 2)

    model = torch.compile(distance, fullgraph=True, dynamic=True)

    def results(function, x):
        y = function(x)
        torch.manual_seed(1)
        return [y.detach(), *torch.autograd.grad(y, (x, weight), torch.randn_like(y))]

    x = halves(4, 32, 20, 18).requires_grad_()
    first = results(model, x)
    torch.testing.assert_close(first, results(distance, x), rtol=1e-12, atol=1e-12)
    assert all(map(torch.equal, first, results(model, x)))

    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in (5, 7):
            batch = halves(n, 32, 20, 18).requires_grad_()
            torch.testing.assert_close(results(model, batch), results(distance, batch), rtol=1e-12, atol=1e-12)
        # All copies of the input take 2.4 MiB; the terms |x - w| of a single tap would take 3.1 MiB.
        peak = peak_bytes(lambda: results(model, x))
        assert peak < 3 * 2**20, peak
    assert not compiled_cpu._compilation_failed


@pytest.mark.slow
def test_compiled_loops_agree_with_the_chunked_form_in_float32(compiled):
    torch.manual_seed(0)
    compare(torch.randn(2, 8, 16, 16), torch.randn(8, 8, 3, 3), ((1, 1), (1, 1), 1), rtol=1e-4, atol=1e-4)
    assert not compiled_cpu._compilation_failed
