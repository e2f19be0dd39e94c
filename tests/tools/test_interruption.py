"""Training with a failing disk, and in several processes of which one gets a signal to stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}


@pytest.fixture(scope='module')
def disks(tmp_path_factory) -> dict:
    """Results of training on several disks."""
    folder = tmp_path_factory.mktemp('disks')
    script = [sys.executable, str(ROOT / 'tests' / 'tools' / 'failing_disks.py'), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    assert not done.returncode, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


WHOLE = 'earlier files are whole'
DISKS = {
    'limited': ('File too large', WHOLE, 'ulimit -f', 'epoch_1.pth', '--resume'),
    'a file in its place': ('File exists', 'move it', "file'"),
    'full': ('No space left on device', WHOLE, 'free some space', '.pth', '--resume'),
    'read-only': ('Read-only file system', WHOLE, 'make the folder writable', "disk'", '--resume'),
}


@pytest.mark.parametrize('name', DISKS)
def test_failing_disk_ends_in_one_message(disks, name):
    if name not in disks:
        pytest.skip('this process may not mount a file system in memory')
    result = disks[name]
    assert result['status'] == 1 and len(result['errors']) == 1 and not result['traceback'], result['log']
    for words in DISKS[name]:
        assert words in result['errors'][0]
    assert not result['partial'], 'no partial files are left'


def test_unreadable_data_are_named(disks):
    """The message names the data, not the output folder."""
    result = disks['unreadable data']
    assert result['status'] == 1 and '/images/' in result['log'], result['log']
    assert 'make the folder writable' not in result['log'] and 'earlier files' not in result['log']


def test_run_without_a_checkpoint_yet_starts_from_its_weights(disks):
    assert disks['start']['status'] == 0 and disks['start']['kept'], disks['start']['log']


def test_earlier_checkpoints_are_complete_and_training_resumes_once_there_is_space(disks):
    if 'full' not in disks:
        pytest.skip('this process may not mount a file system in memory')
    for name in ('full', 'read-only'):
        left = disks[name]['left']
        assert len(left) > 2 and any('best' in file for file in left)
        assert disks[name]['latest'].endswith(max(file for file in left if 'best' not in file))
    assert disks['space again']['status'] == 0 and not disks['space again']['differing']


def start(config: Path, folder: Path, *flags: str) -> subprocess.Popen:
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    command = [*launcher, 'tools/train.py', str(config), '--launcher', 'pytorch', *flags]
    with open(folder.parent / f'{folder.name}.log', 'a') as log:
        return subprocess.Popen(
            [*command, '--work-dir', str(folder)], cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
        )


@pytest.mark.long
def test_two_stopped_and_resumed_processes_end_with_the_bits_of_an_uninterrupted_run(tmp_path):
    import torch

    from mmkerv.engine import safe_load
    from tests.engine.registered_parts import CONFIG

    config = tmp_path / 'config.py'
    rare = "default_hooks['checkpoint']['interval'] = 6\ntrain_cfg['val_interval'] = 30\n"
    parallel = "custom_hooks += [dict(type='SyncBuffersHook'), dict(type='mmkerv.StopSignalHook', interval=2)]\n"
    config.write_text(CONFIG.format(by_epoch=False, workers=2) + rare + parallel)
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    assert start(config, whole).wait(timeout=300) == 0, (tmp_path / 'whole.log').read_text()[-3000:]

    run = start(config, cut)
    while not (cut / 'iter_6.pth').exists():
        assert run.poll() is None, (tmp_path / 'cut.log').read_text()[-3000:]
        time.sleep(0.01)
    # Only the second process gets the signal.
    children = Path(f'/proc/{run.pid}/task/{run.pid}/children').read_text().split()
    trainers = [pid for pid in children if b'train.py' in Path(f'/proc/{pid}/cmdline').read_bytes()]
    os.kill(int(trainers[1]), signal.SIGTERM)
    assert run.wait(timeout=120) != 0
    # They may agree to stop in the very iteration of the checkpoint.
    stopped = safe_load((cut / 'last_checkpoint').read_text())['meta']['iter']
    assert 6 <= stopped < 30 and stopped % 2 == 0, 'they agree every two iterations'
    assert start(config, cut, '--resume').wait(timeout=300) == 0, (tmp_path / 'cut.log').read_text()[-3000:]
    first, second = (safe_load(folder / 'iter_30.pth') for folder in (whole, cut))
    # mmengine stores the running statistics of the first process only; those of the second differ.
    names = [name for name in first['state_dict'] if 'running' not in name]
    assert len(names) > 5 and all(torch.equal(first['state_dict'][n], second['state_dict'][n]) for n in names)
    moments = [run['optimizer']['state'] for run in (first, second)]
    assert all(torch.equal(moments[0][i]['exp_avg'], moments[1][i]['exp_avg']) for i in moments[0])
