"""Trainings as processes: failures are named and stop no other, a signal loses nothing, what is done stays done."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmengine')

from mmkerv.analysis.comparison.processes import Launch, Progress, Trainer, _Process, locked, tells_the_time
from mmkerv.analysis.comparison.record import DONE, FAILED, Run, last_error, main_metric
from mmkerv.analysis.comparison.results import results
from mmkerv.analysis.comparison.variant import Variant
from mmkerv.errors import ConfigError

FAKE = Path(__file__).with_name('fake_training.py')


class FakeLaunch:
    """Starts a script in place of a training; the name of the variant says what it does."""

    def command(self, config, run):
        return [sys.executable, '-S', '-E', str(FAKE), str(run.folder), str(run.seed), run.variant.spec]

    def environment(self, slot, jobs):
        return {'CUDA_VISIBLE_DEVICES': str(slot)}


@pytest.fixture
def comparison(tmp_path):
    def train(*specs, seeds=1, jobs=1):
        runs = [Run(Variant(s), seed, tmp_path / s / f'seed_{seed}') for seed in range(seeds) for s in specs]
        lines = []
        trainer = Trainer(dict.fromkeys(specs, Path('a.py')), FakeLaunch(), jobs, 1, None, lines.append)
        return trainer.train(runs), runs, lines

    return train


def starts(run):
    return (run.folder / 'starts').read_text().splitlines()


def test_records(comparison):
    stopped, runs, lines = comparison('plain', 'coc', seeds=2, jobs=2)
    assert stopped == 0 and len(lines) == 4
    for run in runs:
        record = run.record()
        assert record['status'] == DONE and record['metrics'] == {'mIoU': 40.0 + run.seed}
        assert record['operator'] == run.variant.spec and record['seed'] == run.seed
        assert record['seconds_per_step'] == 0.5 and record['memory_of'] == 'process' and record['memory_mib'] > 0
        assert not list(run.folder.glob('*.tmp'))
    assert {line for run in runs for line in starts(run)} == {'0', '1'}, 'each place has its own device'


@pytest.mark.parametrize(
    ('behaviour', 'error'),
    [
        ('fails', 'the loss is NaN; lower the learning rate'),
        ('raises', 'RuntimeError: no memory'),
        ('killed', 'ended by SIGKILL'),
    ],
)
def test_failed_run_is_named_and_the_others_go_on(comparison, behaviour, error):
    stopped, runs, lines = comparison(behaviour, 'plain')
    assert stopped == 0
    failed, fine = (run.record() for run in runs)
    assert failed['status'] == FAILED and failed['error'] == error and fine['status'] == DONE
    assert f'{behaviour}, seed 0: failed: {error}' in lines[0]


def test_what_is_done_is_not_run_again_and_what_failed_is(comparison):
    comparison('plain', 'fails')
    _, runs, _ = comparison('plain', 'fails', 'coc')
    assert [len(starts(run)) for run in runs] == [1, 2, 1]


def test_signal_loses_nothing(comparison):
    """The first training sends the signal, waits until it is passed on, and stops with a checkpoint."""
    before = signal.getsignal(signal.SIGINT)
    stopped, runs, lines = comparison('signals', 'plain')
    assert stopped == signal.SIGINT and signal.getsignal(signal.SIGINT) is before
    assert [run.record() for run in runs] == [None, None] and not (runs[1].folder / 'starts').exists()
    assert 'goes on from its checkpoint' in lines[0]
    stopped, runs, _ = comparison('signals', 'plain')
    assert stopped == 0 and [run.record()['status'] for run in runs] == [DONE, DONE]
    second = (runs[0].folder / 'start_2' / 'vis_data' / 'scalars.json').read_text().splitlines()
    assert json.loads(second[0])['step'] == 3, 'it went on behind the checkpoint'
    assert [(run.record()['starts'], run.record()['jobs']) for run in runs] == [(2, 1), (1, 1)]


def test_signal_while_a_training_is_started(comparison, monkeypatch):
    """It is passed on to the training that is not yet known, which would go on for hours."""

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, 'Popen', Popen)
    stopped, (run,), lines = comparison('waits')
    assert stopped == signal.SIGINT and run.record() is None and 'stopped' in lines[0]
    assert 'nobody stopped it' not in (run.folder / 'log.txt').read_text()


def test_signal_for_a_process_that_was_just_reaped():
    ended = subprocess.Popen(['true'])
    os.waitpid(ended.pid, 0)
    trainer = Trainer({}, FakeLaunch(), 1, 1, None, print)
    trainer._working.append(_Process(RUN, 0, ended, 0.0, 0))
    trainer._pass_on(signal.SIGTERM)


def test_failure_of_before_is_forgotten_while_the_run_is_tried_again(comparison):
    _, (run,), _ = comparison('fails')
    assert run.record()['status'] == FAILED
    # The second start ends before the training has begun.
    (run.folder / 'log.txt').unlink()
    (run.folder / 'log.txt').mkdir()
    with pytest.raises(OSError, match='Is a directory'):
        comparison('fails')
    assert run.record() is None


def test_other_errors_than_a_held_lock(tmp_path, monkeypatch):
    import fcntl

    def flock(*args):
        raise OSError('no locks available')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with pytest.raises(OSError, match='no locks available'), locked(tmp_path):
        pass


def test_ports_of_trainings_at_a_time(monkeypatch):
    monkeypatch.delenv('MASTER_PORT', raising=False)
    launch = Launch('slurm', 2)
    assert [launch.environment(slot, 2)['MASTER_PORT'] for slot in (0, 1)] == ['29500', '29501']
    assert 'MASTER_PORT' not in launch.environment(0, 1)
    monkeypatch.setenv('MASTER_PORT', '4000')
    assert Launch('mpi', 2).environment(1, 2)['MASTER_PORT'] == '4001'


def test_error_of_one_of_several_processes():
    """The launcher ends with an error of its own."""
    text = (
        '[rank1]: Traceback (most recent call last):\n[rank1]: ValueError: no data\n'
        'torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\nFAILED\n====\n'
    )
    assert last_error(text) == 'ValueError: no data'
    assert last_error(f'[rank0]: error: the loss is NaN\n{text}') == 'the loss is NaN'


def test_evaluation_without_the_metric(comparison):
    _, (run,), lines = comparison('silent')
    assert run.record()['metrics'] == {} and lines == ['silent, seed 0: no metric']


def test_damaged_record_is_named(tmp_path):
    run = Run(Variant('plain'), 0, tmp_path)
    (tmp_path / 'record.json').write_text('{')
    with pytest.raises(ConfigError, match=r'record\.json cannot be read.*remove it'):
        run.record()


def test_one_comparison_a_folder(tmp_path):
    with locked(tmp_path) as lock:
        with pytest.raises(ConfigError, match='still works in'), locked(tmp_path):
            pass
        orphan = subprocess.Popen(['sleep', '60'], pass_fds=(lock.fileno(),))
    try:
        # A training that outlives its comparison holds the folder.
        with pytest.raises(ConfigError, match='still works in'), locked(tmp_path):
            pass
    finally:
        orphan.kill()
        orphan.wait()
    with locked(tmp_path):
        pass


RUN = Run(Variant('coc'), 3, Path('work'))


@pytest.mark.parametrize(
    ('launch', 'words'),
    [
        (Launch(), ['python', '-m', 'mmkerv.cli.train', 'a.py', '--work-dir', 'work', '--resume']),
        (Launch('pytorch', 2), ['python', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']),
        (Launch('slurm', 8), ['srun', '--ntasks', '8', '--kill-on-bad-exit=1', 'python', '-m', 'mmkerv.cli.train']),
        (Launch('mpi', 4), ['mpirun', '-n', '4', 'python', '-m', 'mmkerv.cli.train']),
    ],
)
def test_command(launch, words, monkeypatch):
    monkeypatch.setattr(sys, 'executable', 'python')
    command = launch.command(Path('a.py'), RUN)
    assert command[: len(words)] == words and command[-1] == 'randomness.seed=3' and '--resume' in command
    assert ('--launcher' in command) is (launch.launcher != 'none')


def test_devices_of_a_place(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    launch = Launch('pytorch', 2, tuple('0123'))
    assert [launch.environment(slot, 2)['CUDA_VISIBLE_DEVICES'] for slot in (0, 1)] == ['0,1', '2,3']
    assert Launch(devices=('a', 'b')).environment(2, 3)['CUDA_VISIBLE_DEVICES'] == 'a'
    assert int(Launch().environment(0, 1000)['OMP_NUM_THREADS']) == 1
    assert 'OMP_NUM_THREADS' not in Launch().environment(0, 1)


def test_progress():
    text = str(Progress(3, 1, 12, {'coc, seed 1': 0.25}, 3900.0))
    assert text.startswith('3 of 12 runs done, 1 failed; coc, seed 1: 25 %, ends about ')
    assert text.endswith('in 1 h 5 min')


def test_a_resumed_run_does_not_tell_how_long_one_takes(tmp_path):
    trainer = Trainer({'plain': Path('a.py')}, FakeLaunch(), 1, 1, None, print)
    runs = [Run(Variant('plain'), seed, tmp_path / f'seed_{seed}') for seed in (0, 1)]
    runs[0].folder.mkdir()
    runs[0].write(status='done', metrics={}, seconds=100.0, starts=1)
    runs[1].folder.mkdir()
    runs[1].write(status='done', metrics={}, seconds=2.0, starts=2)
    trainer.train(runs)
    assert trainer._rest([Run(Variant('plain'), 2, tmp_path / 'seed_2')]) == 100.0


def test_rest_of_a_resumed_run_by_the_pace_of_its_last_start(tmp_path, monkeypatch):
    """It goes on at 50 % and does 10 % in 100 seconds: the other 40 % take 400, not 67."""
    trainer = Trainer({'plain': Path('a.py')}, FakeLaunch(), 1, 1, None, print)
    log, before = tmp_path / 'log.txt', 'Iter(train) [ 10/100]\nIter(train) [ 55/100]\n'
    log.write_text(before)
    trainer._working.append(_Process(Run(Variant('plain'), 0, tmp_path), 0, None, 0.0, len(before)))
    monkeypatch.setattr('time.monotonic', lambda: 100.0)
    assert trainer._rest([]) is None, 'this start has printed nothing yet'
    log.write_text(before + 'Iter(train) [ 50/100]\nIter(train) [ 60/100]\n')
    assert trainer._rest([]) == pytest.approx(400)


def test_time_of_a_resumed_run_is_that_of_all_its_starts(comparison):
    comparison('signals')
    _, (run,), _ = comparison('signals')
    starts, record = json.loads((run.folder / 'starts.json').read_text()), run.record()
    assert len(starts) == 2 and record['complete'] and tells_the_time(record)
    assert record['seconds'] == round(sum(start['seconds'] for start in starts), 1)
    assert record['memory_mib'] == round(max(start['kilobytes'] for start in starts) / 1024)


@pytest.mark.parametrize('left', ['[{"seconds": null, "kilobytes": null}]', '{', None], ids=['killed', 'bad', 'old'])
def test_time_of_a_run_with_a_start_that_left_none_is_not_known(comparison, left):
    """It was killed with the comparison, its file is damaged, or it is of an earlier version."""
    _, (run,), _ = comparison('signals')
    file = run.folder / 'starts.json'
    file.unlink() if left is None else file.write_text(left)
    _, (run,), _ = comparison('signals')
    record = run.record()
    assert record['seconds'] is None and not record['complete'] and not tells_the_time(record)
    assert record['memory_mib'] > 0
    (row,) = results([run.variant], [run], {}, {}, {})['rows']
    assert row['seconds'] == 0 and row['incomplete'] == [0]


def test_metric_that_no_run_has():
    with pytest.raises(ConfigError, match=r"--metric 'map': the evaluations have mIoU"):
        main_metric([{'mIoU': 1.0}], 'map')
