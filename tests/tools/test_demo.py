"""The steps of the demo: the commands that run, the files that are kept, the contents of the record."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmkerv.cli.main import COMMANDS

pytest.importorskip('mmdet')

ROOT = Path(__file__).resolve().parents[2]
METRICS = {'coco/bbox_mAP': 0.5}


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """The command with steps that write their files and compute nothing; ``demo.ran`` lists the steps.

    ``demo.read`` lists the settings with which the networks are compared.
    """
    import mmkerv.cli.demo as module
    import mmkerv.cli.report.demo_report as demo_report
    import mmkerv.datasets.shapes as shapes
    import mmkerv.deploy.comparison as comparison
    import mmkerv.deploy.model_outputs as model_outputs
    import mmkerv.deploy.trained_model as trained
    import mmkerv.image_files as image_files

    ran, read = [], []

    def run(command):
        # What starts a subcommand is checked, which a test of the words alone would let pass.
        assert command[:3] == [sys.executable, '-m', 'mmkerv'] and command[3] in COMMANDS, command
        name, *_ = words = command[3:]
        ran.append(words)
        if name == 'train':
            folder = Path(words[words.index('--work-dir') + 1])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'epoch_16.pth').write_text(words[1])
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_16.pth'))
        if name == 'test':
            Path(words[words.index('--out') + 1]).write_text(json.dumps(METRICS))
        return SimpleNamespace(returncode=0)

    def report(work):
        ran.append(['report'])
        return work / 'report.html'

    compared = comparison.Comparison(1e-7, (11, 10), (3.0, 2.0), (0.2, 0.7))
    monkeypatch.setattr(module, 'subprocess', SimpleNamespace(run=run))
    monkeypatch.setattr(shapes, 'write_shapes', lambda *_: True)
    monkeypatch.setattr(comparison, 'compare', lambda *given: read.append(given[-1]) or compared)
    monkeypatch.setattr(comparison, 'inference_times', lambda models, *_: (6.0, 4.0, 4.5))
    monkeypatch.setattr(comparison, 'count', lambda model: 10)
    monkeypatch.setattr(model_outputs, 'sample_inputs', lambda *_: [(0, 0)])
    monkeypatch.setattr(image_files, 'find_images', lambda _: [])
    monkeypatch.setattr(trained, 'load_trained', lambda *given: read.append(given[-1]) or (None, None))
    monkeypatch.setattr(demo_report, 'write_demo_report', report)

    def call(*arguments):
        ran.clear()
        read.clear()
        module.main(['--work-dir', str(tmp_path / 'work'), '--data', 'shapes', *arguments])
        return [' '.join([words[0], *(Path(word).stem for word in words[1:2])]) for words in ran]

    return SimpleNamespace(call=call, ran=ran, read=read)


WITH_OPERATORS = [
    'train retinanet_coc_shapes',
    'test retinanet_coc_shapes',
    'fold retinanet_coc_shapes',
    'test deploy',
]
PLAIN = ['train retinanet_shapes', 'test retinanet_shapes']


def record(tmp_path):
    return json.loads((tmp_path / 'work' / 'demo.json').read_text())


def test_demo(demo, tmp_path, capsys):
    assert demo.call('--seed', '5', '--cfg-options', 'a.b=1') == [*WITH_OPERATORS, 'report']
    train = demo.ran[0]
    assert train[train.index('--cfg-options') + 1 :] == [
        'data_root=shapes',
        'randomness.seed=5',
        'train_cfg.val_interval=2',
        'a.b=1',
    ]
    result = record(tmp_path)
    assert result['seed'] == 5 and result['options'] == {'a.b': 1} and result['plain'] is None
    assert result['config'] == os.path.relpath(ROOT / 'configs/demo/retinanet_coc_shapes.py')
    assert result['before'] == result['after'] == METRICS and result['milliseconds'] == [3.0, 2.0]
    assert result['seconds'] > 0 and result['environment']['PyTorch']
    assert (tmp_path / 'work' / 'trained.pth').is_file()
    printed = capsys.readouterr().out
    assert 'report.html' in printed and '\n400 train and 100 val scenes written\n' in printed


def test_compare_keeps_a_finished_demo(demo, tmp_path):
    assert demo.call('--compare') == [*WITH_OPERATORS, *PLAIN, 'report']
    result = record(tmp_path)
    assert result['milliseconds'] == [6.0, 4.0]
    assert result['plain'].pop('seconds') > 0
    assert result['plain'].pop('config').endswith('configs/demo/retinanet_shapes.py')
    assert result['plain'] == {'metrics': METRICS, 'parameters': 10, 'milliseconds': 4.5}
    assert demo.call('--compare') == [*PLAIN, 'report']
    assert demo.call('--compare', '--seed', '1') == [*WITH_OPERATORS, *PLAIN, 'report']
    assert demo.call() == [*WITH_OPERATORS, 'report']
    assert record(tmp_path)['plain'] is None


def test_settings_keep_their_types_where_networks_are_compared(demo):
    demo.call('--compare', '--cfg-options', 'model.a=2', 'model.b=False', 'model.c=(1,2)')
    settings = {'data_root': 'shapes', 'model.a': 2, 'model.b': False, 'model.c': (1, 2)}
    assert demo.read == [settings, settings, None, settings]


def test_report_only_trains_nothing(demo):
    assert demo.call('--report-only') == ['report']


def test_failed_demo_leaves_no_record(demo, tmp_path, monkeypatch):
    demo.call()

    def fail(*_):
        raise SystemExit('error')

    monkeypatch.setattr('mmkerv.cli.demo.tool', fail)
    with pytest.raises(SystemExit):
        demo.call()
    assert not (tmp_path / 'work' / 'demo.json').exists()


def test_report_without_a_demo_ends_in_one_message(tmp_path):
    command = [sys.executable, 'tools/demo.py', '--report-only', '--work-dir', str(tmp_path / 'nothing')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    messages = re.findall(r'^error: (.*)$', done.stderr, re.MULTILINE)
    assert len(messages) == 1 and 'no demo was finished' in messages[0] and 'make demo' in messages[0]
    assert not (tmp_path / 'nothing').exists()


@pytest.mark.long
def test_small_demo_from_start_to_end(tmp_path):
    options = [
        'train_cfg.max_epochs=4',
        'train_dataloader.dataset.indices=16',
        'val_dataloader.dataset.indices=8',
        'test_dataloader.dataset.indices=8',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=1',
    ]
    folders = ['--work-dir', str(tmp_path / 'work'), '--data', str(tmp_path / 'shapes')]
    command = [sys.executable, 'tools/demo.py', '--compare', *folders, '--cfg-options', *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    page = (tmp_path / 'work' / 'report.html').read_text(encoding='utf-8')
    assert len(page) < 1.5e6 and 'make demo-compare' not in page and 'Kernels before and after training' in page
    assert page.count('<img') == 4 * 3 + 3 * 2 and 'loss, plain' in page
    # mmdetection logs no metric for a network that detects nothing, as may happen after so few iterations.
    logs = [
        file.read_text() for name in ('train', 'plain') for file in (tmp_path / 'work' / name).rglob('scalars.json')
    ]
    assert ('mAP_50, plain' in page) == all('bbox_mAP_50' in log for log in logs)
