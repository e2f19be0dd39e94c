"""`mmkerv plan` and `mmkerv train --check`: what they find before a training, and what they say it costs."""

import re
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from tests.tool_process import Done, run_tool
from tests.tools.three_tasks import CONFIGS, FOLDERS

PLAN, TRAIN = 'tools/plan.py', 'tools/train.py'
OPERATORS = {'detection': 'CoCConv', 'segmentation': 'CoCConv', 'classification': 'CKConv'}
CLASSIFIER = CONFIGS / 'classification_old.py'


def options(data: Path, task: str, *more: str) -> tuple[str, ...]:
    return ('--cfg-options', f'data_root={data / FOLDERS[task]}', *more)


def faults(done: Done) -> list[str]:
    assert done.status == 1 and 'Traceback' not in done.err, done.err[-3000:]
    return [line for line in done.out.splitlines() if line.startswith('FAULT')]


@pytest.mark.parametrize('kind', ['old', pytest.param('new', marks=pytest.mark.slow)])
@pytest.mark.parametrize('task', FOLDERS)
def test_a_sound_config_has_no_faults_and_a_cost(data, tmp_path, task, kind):
    before = set(Path.cwd().rglob('work_dirs'))
    done = run_tool(PLAN, CONFIGS / f'{task}_{kind}.py', '--timed-iters', 1, *options(data, task))
    assert done.status == 0, done.out + done.err
    lines = done.out.splitlines()
    assert not [line for line in lines if line.startswith(('FAULT', '-  '))], done.out
    assert any(line.startswith('ok      a training step: on cpu with a batch of the data, loss') for line in lines)
    operator = OPERATORS[task]
    assert re.search(rf'mmkerv: \d+ of \d+ convolutions -> (\d+ )?{operator} ', done.out), done.out
    assert f'mmkerv: {operator} starts ' in done.out and f' of {operator} (' in done.out
    # Columns: the plain network, the network of the config, their ratio.
    seconds = re.search(r'seconds of a training step \|\s+([\d.]+) \|\s+([\d.]+) \|\s+([\d.]+) \|', done.out)
    assert seconds and all(float(number) > 0 for number in seconds.groups())
    plain, own, folded = (
        int(re.search(rf'\| {row} +\|{skip}\s+([\d,]+) \|', done.out)[1].replace(',', ''))
        for row, skip in (('parameters', ''), ('parameters', r'[^|]+\|'), ('parameters, folded', r'[^|]+\|'))
    )
    assert own != plain == folded
    assert re.search(r'time of the training: \d+ iterations in', done.out)
    assert set(Path.cwd().rglob('work_dirs')) == before


def test_all_faults_are_told_at_once(data, tmp_path):
    """A misspelt key keeps the network from being built, but not the data and the weights from being checked.

    A loop may be given by an empty dict, as mmpretrain does.
    """
    config = tmp_path / 'net.py'
    backbone = "conv_cgf=dict(type='mmkerv.CoCConv'), init_cfg=dict(type='Pretrained', checkpoint='absent.pth')"
    text = f"_base_ = '{CLASSIFIER}'\nmodel = dict(backbone=dict({backbone}))\nval_cfg = dict(_delete_=True)"
    config.write_text(text)
    found = faults(run_tool(PLAN, config, '--cfg-options', 'data_root=nowhere', 'train_dataloader.batch_size=1'))
    assert len(found) == 3, found
    assert "model.backbone.conv_cgf: ResNet has no argument 'conv_cgf'; did you mean 'conv_cfg'?" in found[0]
    assert all(f'{phase}_dataloader.dataset.data_root' in found[1] for phase in ('train', 'val'))
    assert "'nowhere' does not exist" in found[1] and "checkpoint 'absent.pth' does not exist" in found[2]


def test_check_finds_another_number_of_classes_and_trains_nothing(data, tmp_path):
    words = ('--check', '--work-dir', tmp_path / 'work')
    done = run_tool(TRAIN, CLASSIFIER, *words, *options(data, 'classification', 'model.head.num_classes=7'))
    found = faults(done)
    assert len(found) == 1 and 'model.head: num_classes=7, but the data of train_dataloader has 3 classes' in found[0]
    done = run_tool(TRAIN, CLASSIFIER, *words, *options(data, 'classification'))
    assert done.status == 0 and 'ok      a training step' in done.out, done.out + done.err
    assert not (tmp_path / 'work').exists()


def test_training_tells_all_faults_of_the_config_at_once(tmp_path):
    config = tmp_path / 'net.py'
    config.write_text(f"_base_ = '{CLASSIFIER}'\nmodel = dict(backbone=dict(conv_cgf=None))")
    done = run_tool(TRAIN, config, '--work-dir', tmp_path / 'work', '--cfg-options', 'data_root=nowhere')
    assert done.status == 1 and 'Traceback' not in done.err
    keys = 'train_dataloader.dataset.data_root, val_dataloader.dataset.data_root'
    assert "no argument 'conv_cgf'" in done.err and f"{keys}: 'nowhere'" in done.err
    assert done.err.count('\nerror: ') + done.err.startswith('error: ') == 1


def test_without_data_random_images_are_taken(tmp_path):
    """The plain network of a config with an operator put around it, named as --cfg-options takes its keys."""
    plain = 'model.backbone.conv_cfg=None'
    words = ('--operator', 'ck', '--timed-iters', 0, '--cfg-options', 'data_root=nowhere', plain)
    config = tmp_path / 'net.py'
    weights = "dict(type='Pretrained', checkpoint='absent.pth')"
    config.write_text(f"_base_ = '{CLASSIFIER}'\nmodel = dict(backbone=dict(init_cfg={weights}))")
    done = run_tool(PLAN, config, *words)
    found = faults(done)
    assert len(found) == 2 and "checkpoint 'absent.pth' does not exist" in found[1], found
    assert '--cfg-options model.backbone.init_cfg.checkpoint=FILE, or None for model.backbone.init_cfg' in found[1]
    assert 'model.model.' not in done.out
    assert 'ok      a training step: on cpu with random images' in done.out
    assert 'convolutions -> CKConv' in done.out and 'warning: mmkerv:' in done.out
    assert 'time of the training: unknown, no step was timed' in done.out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--timed-iters', '-1'), '--timed-iters must be >= 0, got -1'),
        (('--img-size', '0'), '--img-size must be >= 1, got 0'),
        (('--where', 'stem=False'), 'add --operator'),
    ],
)
def test_bad_flags(words, message):
    done = run_tool(PLAN, CLASSIFIER, *words)
    assert done.status in (1, 2) and message in done.err and 'Traceback' not in done.err
