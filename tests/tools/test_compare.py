"""tools/compare.py and run_report.py as a user runs them, on small networks of the three libraries."""

import json
import re

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
pytest.importorskip('matplotlib')

from mmkerv.analysis.comparison.cost import Cost
from mmkerv.cli.compare import compare as compare_operators
from mmkerv.cli.compare import parse_args
from tests.tool_process import run_tool
from tests.tools.three_tasks import CONFIGS, FOLDERS, PLAIN

TOOL, PAGE = 'tools/compare.py', 'tools/analysis_tools/run_report.py'
KINDS = [(task, kind) for kind in ('old', 'new') for task in FOLDERS]
# In the normal run: the three libraries, and one pure-Python config.
FAST = [*KINDS[:3], ('classification', 'new')]


def compare(data, work, task='classification', kind='old', *flags, timeout=600):
    options = ('--cfg-options', f'data_root={data / FOLDERS[task]}', *PLAIN[task])
    return run_tool(TOOL, CONFIGS / f'{task}_{kind}.py', '--work-dir', work, *flags, *options, timeout=timeout)


@pytest.mark.parametrize(
    ('task', 'kind'),
    [pytest.param(*pair, id='-'.join(pair), marks=[] if pair in FAST else [pytest.mark.long]) for pair in KINDS],
)
def test_dry_run(data, tmp_path, task, kind):
    """The cost of each network, of every library and kind of config; nothing is written."""
    work = tmp_path / 'work'
    operators = ('plain', 'coc', 'kerv:where.stages=()')
    done = compare(data, work, task, kind, '--dry-run', '--operators', *operators, '--epochs', '2')
    assert done.status == 0, done.err[-3000:]
    assert not work.exists()
    lines = done.out.splitlines()
    assert lines[0].startswith('3 operators x 3 seeds = 9 runs of 2 epochs')
    assert 'schedule scaled: train_cfg.max_epochs 1 -> 2' in done.out
    rows = {cells[1].strip(): cells for line in lines if len(cells := line.split('|')) > 5}
    assert {'plain', *operators} <= set(rows)
    count = {name: int(rows[name][2].replace(',', '')) for name in operators}
    assert count['plain'] < count['coc'] and count['plain'] == int(rows['coc'][3].replace(',', ''))
    replaced = {line.partition(': ')[0]: line for line in lines if ' image' in line and ': ' in line}
    assert 'plain: no operators; ' in replaced['plain'] and '-> CoCConv' in replaced['coc']
    assert re.search(r' 1 of \d+ convolutions -> KervConv|\d of \d+ convolutions -> KervConv', done.out)


def test_networks_that_cannot_be_built_are_named(data, tmp_path):
    done = compare(data, tmp_path / 'work', 'classification', 'old', '--dry-run', '--operators', 'plain',
                   "coc:where.names=('absent',)")  # fmt: skip
    # As of the comparison itself.
    assert done.status == 1, done.err[-3000:]
    assert "error: not built: coc:where.names=('absent',); see the notes above" in done.err
    assert "coc:where.names=('absent',): not built: no convolution was replaced" in done.out


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (('--operators', 'cok'), ["did you mean 'ck' or 'coc'?"]),
        (('--iters', '5'), ['--iters: the config counts epochs', 'use --epochs']),
        (('--seeds', '0'), ['--seeds must be >= 1']),
        (('--gpus', '2'), ['--gpus needs a launcher']),
        (('--operators', 'plain:cfg.optim_wrapper.optimizer.type=Adamw'), ['no optimizer is called']),
    ],
    ids=['operator', 'unit', 'seeds', 'gpus', 'optimizer'],
)
def test_bad_input(data, tmp_path, flags, words):
    done = compare(data, tmp_path / 'work', 'classification', 'old', *flags)
    assert done.status != 0 and 'Traceback' not in done.err
    for word in words:
        assert word in done.err
    assert not list(tmp_path.glob('work/*'))


def test_table_is_written_before_what_may_fail(data, tmp_path, monkeypatch, capsys):
    def trained(self, runs):
        for run in runs:
            record = {'seconds_per_step': None, 'memory_mib': 1, 'memory_of': 'process'}
            run.write(status='done', metrics={'accuracy/top1': 50.0}, **record)
        return 0

    def breaks(self):
        raise RuntimeError('folding broke')

    monkeypatch.setattr('mmkerv.analysis.comparison.processes.Trainer.train', trained)
    monkeypatch.setattr('mmkerv.cli.compare.Comparison.fold_and_time', breaks)
    monkeypatch.setattr('mmkerv.cli.compare.all_costs', lambda *args: {'plain': Cost('nothing', (32, 32), None)})
    options = ('--cfg-options', f'data_root={data / FOLDERS["classification"]}', *PLAIN['classification'])
    flags = ('--operators', 'plain', '--seeds', '1', '--work-dir', str(tmp_path / 'work'))
    with pytest.raises(RuntimeError, match='folding broke'):
        compare_operators(parse_args([str(CONFIGS / 'classification_old.py'), *flags, *options]))
    assert '| plain    |         50.00 |' in capsys.readouterr().out
    assert '| plain | 50.00 |' in (tmp_path / 'work' / 'results.md').read_text()


@pytest.mark.slow
def test_comparison(data, tmp_path):
    """From nothing to the page; what is done stays; a failed run is named; other settings are refused."""
    work = tmp_path / 'work'
    adamw = 'coc:cfg.optim_wrapper.optimizer.type=AdamW'
    # SGD refuses a negative learning rate.
    broken = 'plain:cfg.optim_wrapper.optimizer.lr=-1.0'
    flags = ('--operators', 'plain', adamw, broken, '--seeds', '1', '--epochs', '2')
    done = compare(data, work, 'classification', 'old', *flags)
    assert done.status == 1, done.err[-3000:]
    assert f'error: 1 of 3 runs failed: {broken}, seed 0' in done.err
    results = json.loads((work / 'results.json').read_text())
    plain, coc, failed = results['rows']
    assert results['metric'] == 'accuracy/top1' and results['reference'] == 'plain'
    assert list(plain['values']) == list(coc['values']) == ['0'] and plain['difference'] is None
    assert coc['difference']['pairs'] == 1 and coc['difference']['verdict'] == 'one seed'
    assert failed['values'] == {} and all('learning rate' in error for error in failed['failed'].values())
    assert coc['folds']['0']['difference'] < 1e-4 and all(coc['milliseconds']) and plain['milliseconds'][1] is None
    assert coc['memory_mib'] > 0 and coc['seconds_per_step'] > 0
    assert (work / 'plain' / 'seed_0' / 'record.json').is_file()
    folder = work / 'coc-cfg.optim_wrapper.optimizer.type=AdamW'
    assert (folder / 'seed_0' / 'deploy.pth').is_file()
    page = (work / 'report.html').read_text(encoding='utf-8')
    assert adamw in page and 'one seed' in page and not re.search(r'https?://|<script', page)
    assert '| plain |' in (work / 'results.md').read_text()

    before = (work / 'plain' / 'seed_0' / 'record.json').read_bytes()
    done = compare(data, work, 'classification', 'old', '--operators', 'plain', adamw, '--seeds', '1', '--epochs', '2')
    assert done.status == 0, done.err[-3000:]
    assert (work / 'plain' / 'seed_0' / 'record.json').read_bytes() == before
    assert 'timing the inference' not in done.out, 'the times are kept'

    done = compare(data, work, 'classification', 'old', '--operators', 'plain', '--seeds', '1', '--epochs', '3')
    assert done.status == 1 and 'was begun with other settings of plain' in done.err, done.err[-2000:]

    done = run_tool(PAGE, folder / 'seed_0', '--images', '3')
    assert done.status == 0, done.err[-3000:]
    page = (folder / 'seed_0' / 'report.html').read_text(encoding='utf-8')
    for words in ('accuracy/top1', 'convolutions -&gt; CoCConv', 'before training', 'predicted', 'PyTorch', 'seed 0'):
        assert words in page, words
    assert 'Not on this page' not in page and not re.search(r'https?://|<script', page)


@pytest.mark.long
@pytest.mark.parametrize(('task', 'kind'), KINDS, ids=['-'.join(pair) for pair in KINDS])
def test_both_kinds(data, tmp_path, task, kind):
    work = tmp_path / 'work'
    done = compare(data, work, task, kind, '--operators', 'plain', 'coc', '--seeds', '1')
    assert done.status == 0, done.out[-2000:] + done.err[-2000:]
    rows = json.loads((work / 'results.json').read_text())['rows']
    assert [row['operator'] for row in rows] == ['plain', 'coc'] and not any(row['failed'] for row in rows)
    assert rows[1]['folds']['0']['difference'] < 1e-4 and '1 seed' in (work / 'results.md').read_text()
    done = run_tool(PAGE, work / 'coc' / 'seed_0')
    page = (work / 'coc' / 'seed_0' / 'report.html').read_text(encoding='utf-8')
    assert done.status == 0 and 'Not on this page' not in page and 'Predictions' in page
