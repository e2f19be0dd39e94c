"""What the table says: values, differences, what failed, what is missing."""

import pytest

pytest.importorskip('mmengine')

from mmkerv.analysis.comparison.cost import Cost
from mmkerv.analysis.comparison.record import DONE, FAILED, Run
from mmkerv.analysis.comparison.results import notes, reference_of, results, table
from mmkerv.analysis.comparison.variant import parse_variants
from mmkerv.analysis.complexity import Complexity

SPECS = ('coc', 'plain', 'kerv', 'dcls', 'ck')
VALUES = {'plain': [70.0, 72.0, 71.0], 'coc': [73.0, 75.2, 73.9], 'kerv': [70.5, 71.5, 71.5]}


@pytest.fixture
def found(tmp_path):
    variants = parse_variants(SPECS)
    runs = [Run(variant, seed, tmp_path / variant.spec / str(seed)) for seed in range(3) for variant in variants]
    for run in runs:
        spec = run.variant.spec
        cost = {'seconds_per_step': 0.25, 'memory_mib': 100 + run.seed, 'memory_of': 'process'}
        if spec in VALUES:
            run.write(status=DONE, metrics={'aAcc': 99.0, 'mIoU': VALUES[spec][run.seed]}, **cost)
        elif spec == 'dcls' and run.seed == 0:
            run.write(status=FAILED, error='the loss is NaN', log='log.txt')
        elif spec == 'dcls' and run.seed == 1:
            run.write(status=DONE, metrics={}, **cost)
    counts = Complexity(2_000_000, 500_000, 2_000_000, 11_000, 10_000)
    costs = {spec: Cost(f'{spec} replaced', (64, 96), counts) for spec in SPECS[:4]} | {'ck': 'even kernels'}
    folds = {'coc, seed 0': {'difference': 2e-7}, 'kerv, seed 0': {'kept': 'it is not linear'}}
    folds['plain, seed 0'] = {'kept': 'nothing to fold'}
    inference = {'device': 'cpu', 'threads': 2, 'shape': [64, 96], 'milliseconds': {'coc': [9.0, 4.0]}}
    inference['milliseconds']['kerv'] = [5.0, None]
    return results(variants, runs, costs, folds, inference)


def test_values_and_differences(found):
    assert found['metric'] == 'mIoU' and found['reference'] == 'plain'
    rows = {row['operator']: row for row in found['rows']}
    assert rows['plain']['mean'] == 71.0 and rows['plain']['difference'] is None
    coc = rows['coc']['difference']
    assert coc['mean'] == pytest.approx(3.0333, abs=1e-3) and coc['verdict'] == 'higher' and coc['freedom'] == 4
    assert rows['kerv']['difference']['verdict'] == 'undecided'
    assert rows['dcls']['failed'] == {'0': 'the loss is NaN'} and rows['dcls']['without_metric'] == [1]
    assert rows['dcls']['missing'] == 1 and rows['dcls']['difference'] is None
    assert rows['coc']['memory_mib'] == 102 and rows['coc']['values'] == {'0': 73.0, '1': 75.2, '2': 73.9}


def test_table(found):
    markdown = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table(found, True).splitlines()]
    assert markdown[0][:4] == ['operator', 'mIoU', 'difference from plain', 'verdict']
    rows = {cells[0]: cells for cells in markdown[2:]}
    assert rows['coc'][1] == '74.03 ± 1.11 (73.00, 75.20, 73.90)'
    assert rows['coc'][2].startswith('+3.03 [+') and rows['coc'][3] == 'higher'
    assert rows['coc'][4:] == ['11,000', '2.5 M', '0.25', '102 MiB', '9.0 -> 4.0']
    assert rows['plain'][2:4] == ['', ''] and rows['kerv'][-1] == '5.0'
    assert rows['dcls'][1] == 'failed' and rows['ck'][1] == 'not built'
    shown = table(found).splitlines()
    assert len({len(line) for line in shown}) == 1 and shown[3].startswith('| coc ')


def test_notes(found):
    text = '\n'.join(notes(found))
    for words in (
        "Student's t",
        'coc: replaced: coc replaced',
        'coc: folded; the outputs differ by at most 2.0e-07',
        'kerv: not folded: it is not linear',
        'dcls, seed 0: failed: the loss is NaN',
        'dcls, seed 1: its evaluation gave no mIoU',
        'dcls: not run yet: 1 of its runs.',
        'ck: not built: even kernels',
        'one 64 x 96 image',
    ):
        assert words in text
    assert 'plain: not folded' not in text


def test_one_seed(tmp_path):
    variants = parse_variants(['plain', 'coc'])
    runs = [Run(variant, 0, tmp_path / variant.spec) for variant in variants]
    for number, run in enumerate(runs):
        run.write(status=DONE, metrics={'mIoU': 70.0 + number}, seconds_per_step=None, memory_mib=1, memory_of='GPU')
    row = table(results(variants, runs, {}, {}, {}), True).splitlines()[-1]
    assert '| 71.00 | +1.00 | one seed |' in row


@pytest.mark.parametrize(('pairs', 'verdict'), [(2, 'higher, 2 of 3 seeds'), (1, '1 of 3 seeds')])
def test_verdict_over_a_part_of_the_seeds(tmp_path, pairs, verdict):
    variants = parse_variants(['plain', 'coc', 'kerv'])
    runs = [Run(variant, seed, tmp_path / variant.spec / str(seed)) for variant in variants for seed in range(3)]
    for run in runs:
        spec, seed = run.variant.spec, run.seed
        if spec != 'coc' or seed < pairs:
            value = 70.0 + seed + 5 * (spec == 'coc') + 0.1 * (spec == 'kerv') * (seed % 2)
            run.write(status=DONE, metrics={'mIoU': value}, seconds_per_step=None, memory_mib=1, memory_of='GPU')
    rows = table(results(variants, runs, {}, {}, {}), True).splitlines()
    assert f'| {verdict} |' in rows[-2] and '| undecided |' in rows[-1]


def test_times_of_steps_that_cannot_be_compared(tmp_path):
    runs = [Run(variant, 0, tmp_path / variant.spec) for variant in parse_variants(['plain', 'coc'])]
    rest = {'metrics': {'mIoU': 70.0}, 'seconds_per_step': 1.0, 'memory_mib': 1, 'memory_of': 'GPU'}
    runs[0].write(status=DONE, **rest, jobs=1, starts=1)
    runs[1].write(status=DONE, **rest, jobs=2, starts=3)
    lines = notes(results([run.variant for run in runs], runs, {}, {}, {}))
    found = [line for line in lines if 'what else ran' in line]
    assert len(found) == 1 and found[0].startswith('coc: ') and '2 trainings ran at a time; resumed: seed 0' in found[0]


def test_what_was_not_timed_is_noted(found):
    found['inference']['not_timed'] = ['coc: not timed: TypeError: no outputs']
    assert 'coc: not timed: TypeError: no outputs.' in notes(found)


@pytest.mark.parametrize(
    ('specs', 'reference'),
    [
        (['coc', 'dcls'], 'coc'),
        (['plain:cfg.optim_wrapper.optimizer.lr=0.1', 'coc', 'plain'], 'plain'),
        (['coc', 'plain:cfg.optim_wrapper.optimizer.lr=0.1'], 'plain:cfg.optim_wrapper.optimizer.lr=0.1'),
    ],
    ids=['none', 'itself', 'changed'],
)
def test_reference(specs, reference):
    assert reference_of(parse_variants(specs)) == reference


def test_a_note_on_several_operators_is_written_once(tmp_path):
    variants = parse_variants(['plain', 'coc', 'dcls'])
    runs = [Run(variant, 0, tmp_path / variant.spec) for variant in variants]
    facts = dict(status=DONE, metrics={'mIoU': 70.0}, seconds_per_step=None, memory_mib=1, memory_of='GPU')
    for run in runs:
        run.write(**facts, jobs=1 if run.variant.spec == 'dcls' else 2)
    lines = notes(results(variants, runs, {}, {}, {}))
    (shared,) = [line for line in lines if 's / step depends' in line]
    assert shared.startswith('plain; coc: s / step depends')
    runs[2].write(**facts, jobs=2)
    assert any(line.startswith('all: s / step depends') for line in notes(results(variants, runs, {}, {}, {})))


@pytest.mark.parametrize('metrics', [{}, {'mIoU': 70.0}], ids=['of all', 'of one'])
def test_evaluation_without_a_metric(tmp_path, metrics):
    runs = [Run(variant, 0, tmp_path / variant.spec) for variant in parse_variants(['plain', 'coc'])]
    rest = {'status': DONE, 'seconds_per_step': None, 'memory_mib': 1, 'memory_of': 'GPU'}
    for run, own in zip(runs, ({}, metrics)):
        run.write(metrics=own, **rest)
    lines = notes(results([run.variant for run in runs], runs, {}, {}, {}))
    assert f'plain, seed 0: its evaluation gave no {"mIoU" if metrics else "metric"}.' in lines


ONE_SEED = 'Differences have no interval, which takes two seeds: nothing is decided.'


@pytest.mark.parametrize(
    ('values', 'seeds', 'first'),
    [
        ({'plain': [0, 1, 2]}, 3, 'There are no differences: plain is the only network.'),
        ({'plain': [0], 'coc': [0]}, 1, ONE_SEED),
        (
            {'plain': [0, 1], 'coc': [1, 2]},
            3,
            ONE_SEED.replace('two seeds', 'two seeds under which both networks have a value'),
        ),
        (
            {'plain': [], 'coc': [0, 1, 2], 'dcls': [0, 1, 2]},
            3,
            'There are no differences: plain, from which they are taken, has no value (not built).',
        ),
        ({'plain': [0, 1, 2], 'coc': []}, 3, 'There are no differences: no network but plain has a value.'),
        (
            {'plain': [0], 'coc': [1, 2]},
            3,
            'There are no differences: no other network has a value under a seed of plain.',
        ),
    ],
    ids=['alone', 'one seed', 'one pair', 'no reference', 'no other', 'no pair'],
)
def test_why_there_is_no_interval(tmp_path, values, seeds, first):
    variants = parse_variants(list(values))
    runs = [Run(variant, seed, tmp_path / variant.spec / str(seed)) for variant in variants for seed in range(seeds)]
    for run in runs:
        if run.seed in values[run.variant.spec]:
            metrics = {'mIoU': 70.0 + run.seed}
            run.write(status=DONE, metrics=metrics, seconds_per_step=None, memory_mib=1, memory_of='GPU')
    costs = {spec: 'even kernels' for spec, own in values.items() if not own}
    assert notes(results(variants, runs, costs, {}, {}))[0] == first


def test_time_of_resumed_runs_of_earlier_versions_is_in_no_sum(tmp_path):
    """These kept the time of the last start only."""
    (variant,) = parse_variants(['plain'])
    runs = [Run(variant, seed, tmp_path / str(seed)) for seed in range(3)]
    rest = {'metrics': {'mIoU': 70.0}, 'seconds_per_step': 1.0, 'memory_mib': 1, 'memory_of': 'GPU'}
    for run, own in zip(runs, ({'starts': 1}, {'starts': 2}, {'starts': 2, 'complete': True})):
        run.write(status=DONE, **rest, seconds=100.0, **own)
    found = results([variant], runs, {}, {}, {})
    assert found['rows'][0]['seconds'] == 200 and found['rows'][0]['incomplete'] == [1]
    assert any(line.startswith('plain: time is incomplete: seed 1, ') for line in notes(found))
    # Results of an earlier version have no such key.
    del found['rows'][0]['incomplete']
    assert not any('incomplete' in line for line in notes(found))
