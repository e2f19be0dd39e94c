"""Ratios, intervals and bounds of benchmarks; their command lines; a benchmark of a small network."""

import argparse
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from tests.tool_process import run_tool

pytest.importorskip('mmpretrain')

ROOT = Path(__file__).resolve().parents[2]
before = list(sys.path)
sys.path.append(str(ROOT / 'benchmarks'))
timing, record, bounds, suite = map(importlib.import_module, ('timing', 'record', 'bounds', 'suite'))
SCRIPTS = {name: importlib.import_module(name) for name in ('networks', 'ops', 'scaling', 'startup', 'distributed')}
networks, scaling, startup = SCRIPTS['networks'], SCRIPTS['scaling'], SCRIPTS['startup']
sys.path[:] = before
COMMANDS = {**suite.QUICK, **suite.FULL, **suite.CUDA}
Ratio = timing.Ratio


@pytest.mark.parametrize('count, low, high', [(3, 0, 2), (5, 0, 4), (6, 0, 5), (9, 1, 7), (11, 1, 9), (25, 7, 17)])
def test_interval_is_that_of_the_order_statistics(count, low, high):
    """The values are from tables of the binomial distribution; up to five values do not reach 95 %."""
    assert timing.interval([float(v) for v in reversed(range(count))]) == (low, high)


def test_ratios_are_computed_within_a_repeat():
    times = {'plain': [1.0, 10.0, 100.0], 'form': [2.0, 20.0, 300.0]}
    assert timing.ratio(times, 'form', 'plain') == Ratio(2.0, 2.0, 3.0)


def test_all_forms_take_turns():
    calls = []
    forms = {name: lambda name=name: calls.append(name) for name in 'ab'}
    times = timing.interleaved(forms, repeats=3, seconds=0, warmup=1)
    assert calls == ['a', 'b'] * 4
    assert {name: len(values) for name, values in times.items()} == {'a': 3, 'b': 3}


def test_an_exponent_is_fitted():
    assert timing.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


@pytest.mark.parametrize(
    'ratio, control, holds',
    [
        (Ratio(1.1, 1.0, 1.2), 1.0, True),
        (Ratio(1.1, 1.06, 1.2), 1.0, False),
        (Ratio(1.1, 1.06, 1.2), 1.02, True),
        (Ratio(1.1, 1.06, 1.2), 0.98, True),
        (Ratio(1.06, 1.06, 1.06), None, False),
        (Ratio(1.05, 1.05, 1.05), None, True),
    ],
)
def test_a_bound_holds_up_to_the_measurement_error(ratio, control, holds):
    assert record.holds(ratio, control, 1.05) is holds


def parsed(script: str, options: list[str], monkeypatch):
    monkeypatch.setattr(sys, 'argv', [f'{script}.py', *options])
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    return SCRIPTS[script].parse_args()


def test_every_bound_of_a_network_is_measured(monkeypatch):
    measured = set()
    for command in suite.FULL.values():
        script, *options = shlex.split(command)
        if script == 'networks':
            args = parsed(script, options, monkeypatch)
            kinds = ['inference'] if args.inference else ['step', 'memory']
            case = f'{args.network} b{args.batch} {args.size}'
            forms = networks.chosen_forms(args)
            measured |= {('networks', f'{case}, {kind}', form) for kind in kinds for form in forms}
    assert {key for key in bounds.BOUNDS if key[0] == 'networks'} <= measured


@pytest.mark.parametrize('small', [False, True])
@pytest.mark.parametrize('name', [name for name in COMMANDS if name != 'tests'])
def test_commands_are_legal(name, small, monkeypatch, tmp_path):
    options = argparse.Namespace(small=small, out=tmp_path, device='cpu', threads=1)
    _, script, *options = suite.command(name, COMMANDS[name], options)
    args = parsed(Path(script).stem, options, monkeypatch)
    assert args.json == tmp_path / f'{name}.json'
    if Path(script).stem == 'networks':
        assert list(networks.chosen_forms(args))[:2] == ['plain', 'A/A']


def test_references_are_added_and_operators_are_folded(monkeypatch):
    assert 'ck folded' in networks.chosen_forms(parsed('networks', ['resnet50', '--forms', 'ck'], monkeypatch))
    forms = networks.chosen_forms(parsed('networks', ['resnet50', '--inference', '--forms', 'coc'], monkeypatch))
    assert list(forms) == ['plain', 'A/A', 'coc', 'coc frozen', 'coc folded']


@pytest.mark.parametrize(
    'script, options', [('networks', ['resnet50']), ('ops', []), ('scaling', []), ('startup', []), ('suite', [])]
)
def test_a_missing_device_ends_in_one_line(script, options):
    if torch.cuda.is_available():
        pytest.skip('this machine has a CUDA device')
    done = run_tool(f'benchmarks/{script}.py', *options, '--device', 'cuda')
    assert done.status == 1 and done.out == ''
    (line,) = [line for line in done.err.splitlines() if 'cpp_extension' not in line]
    assert line.startswith('error: --device cuda: torch sees 0 CUDA devices; leave --device out')


@pytest.mark.parametrize(
    'script, options, message',
    [
        ('networks', ['resnet50', '--forms', 'cocc'], "resnet50 has plain, coc, .*got 'cocc'"),
        ('ops', ['--layers', '64x57'], "--layers: '64x57' is not one of 64x56"),
        ('suite', ['--only', 'opps'], "--only: 'opps' is not one of startup"),
        ('suite', ['--report', '{tmp}'], 'has no records; run benchmarks/suite.py --out'),
    ],
)
def test_mistakes_end_in_one_message(script, options, message, tmp_path):
    done = run_tool(f'benchmarks/{script}.py', *(option.format(tmp=tmp_path) for option in options))
    assert done.status in (1, 2) and 'Traceback' not in done.err
    assert re.search(message, done.err)


@pytest.mark.long
def test_a_network_is_measured(tmp_path):
    file, picture = tmp_path / 'a' / 'small.json', tmp_path / 'a' / 'small.png'
    options = ['--batch', '2', '--size', '64', '--repeats', '3', '--threads', '1']
    done = run_tool('benchmarks/networks.py', 'mobilenet_v3_small', *options, '--json', file, '--plot', picture)
    assert done.status == 0, done.err[-3000:]
    found = json.loads(file.read_text())
    assert {'date', 'hardware', 'versions', 'commit', 'threads'} <= set(found['facts'])
    rows = {(row['case'].rpartition(', ')[2], row['form']): row for row in found['rows']}
    assert set(rows) == {(kind, form) for kind in ('step', 'memory') for form in ('plain', 'A/A', 'coc')}
    assert rows['memory', 'A/A']['median'] == 1 < rows['memory', 'coc']['median']
    assert rows['step', 'plain']['median'] == 1 and rows['step', 'coc']['seconds'] > 0
    assert picture.read_bytes().startswith(b'\x89PNG')
    table = suite.page(file.parent)
    assert table.count('\n| mobilenet_v3_small b2 64, ') == 3 and 'commit' in table


def test_a_missed_bound_is_shown(tmp_path):
    row = {'case': 'a', 'form': 'coc', 'median': 1.5, 'low': 1.4, 'high': 1.6, 'control': 1.0, 'bound': 1.02}
    found = {'about': 'here', 'rows': [{**row, 'holds': False}, {'note': 'grows   as n'}]}
    (tmp_path / 'x.json').write_text(json.dumps(found))
    assert suite.page(tmp_path).splitlines()[4:] == [
        '| a | coc | 1.500 | 1.400 to 1.600 | 1.000 | 1.02, **missed** |',
        '',
        '* grows as n',
    ]


def test_the_page_shows_the_records():
    assert suite.page(ROOT / 'docs' / 'speed') in (ROOT / 'docs' / 'speed.md').read_text()
