"""Benchmark of the operators: a run of one layer, and peak memory."""

import json

import pytest
import torch

from mmkerv.analysis.memory import peak_bytes
from tests.tool_process import Done, run_tool


def run(*arguments: object) -> Done:
    return run_tool('benchmarks/ops.py', *arguments)


@pytest.mark.slow
def test_the_requested_forms_are_measured(tmp_path):
    arguments = ('--batch', 1, '--repeats', 1, '--threads', 1, '--layers', '512x7', '--kernels', 'gaussian')
    result = run(*arguments, '--json', tmp_path / 'ops.json')
    assert result.status == 0, result.err
    rows = {row['form']: row for row in json.loads((tmp_path / 'ops.json').read_text())['rows']}
    assert set(rows) == {'conv', 'A/A', 'conv, ReLU', 'CoC', 'gaussian'} and rows['conv']['median'] == 1
    assert '512x7 b1, fwd+bwd' in result.out and 'float32' in result.out and f'torch {torch.__version__}' in result.out


@pytest.mark.slow
def test_operators_with_fixed_kernels_are_measured(tmp_path):
    arguments = ('--batch', 1, '--repeats', 1, '--threads', 1, '--layers', '--static', 'shiftwise')
    result = run(*arguments, '--json', tmp_path / 'ops.json')
    assert result.status == 0, result.err
    rows = {(row['case'], row['form']) for row in json.loads((tmp_path / 'ops.json').read_text())['rows']}
    replaced = {'shiftwise', 'shiftwise in evaluation', 'shiftwise as one kernel'}
    for quantity in ('forward', 'fwd+bwd', 'memory'):
        assert replaced <= {form for case, form in rows if case == f'3x3 depthwise 96x28 b1, {quantity}'}
    assert ('folded 51x51 depthwise 96x28 b1, forward', 'shiftwise folded') in rows


@pytest.mark.slow
def test_operators_with_a_kernel_for_each_image_are_measured(tmp_path):
    arguments = ('--network', 'hrnet18', '--batch', 1, '--repeats', 1, '--threads', 1, '--layers')
    result = run(*arguments, '--dynamic', 'condconv', '--json', tmp_path / 'ops.json')
    assert result.status == 0, result.err
    rows = {(row['case'], row['form']) for row in json.loads((tmp_path / 'ops.json').read_text())['rows']}
    forms = ('', ' recompute', ' keeping everything', ' as a loop', ' as unfold', ' as mixture')
    for quantity in ('forward', 'fwd+bwd', 'memory'):
        found = {form for case, form in rows if case == f'3x3 18x56 b1, {quantity}'}
        assert found >= {'conv', *(f'condconv{form}' for form in forms)}


@pytest.mark.parametrize(
    ('work', 'floats'),
    [
        (lambda: torch.ones(1000) + 1, 2000),
        (lambda: torch.ones(1000).add_(1), 1000),
        (lambda: tuple(torch.ones(1000) for _ in range(3)), 3000),
        # The first tensor is freed before the third is created.
        (lambda: (torch.ones(1000) + 1) * 2, 2000),
        (lambda: torch.ones(1000).view(10, 100)[2:], 1000),
    ],
)
def test_peak_memory_is_that_of_live_tensors(work, floats):
    assert peak_bytes(work, torch.device('cpu')) == 4 * floats
