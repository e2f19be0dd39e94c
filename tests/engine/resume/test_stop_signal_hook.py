import multiprocessing
import os
import signal
import subprocess
import threading
import time

import pytest
from mmengine.config import Config

from mmkerv.engine import safe_load
from mmkerv.engine.resume.latest_checkpoint import latest_checkpoint
from mmkerv.engine.resume.stop_signal_hook import SIGNALS, IgnoreSignalsInWorker, StopSignalHook
from tests.engine.resume.interrupted_runs import Cut, Cutter, Sender, bits, differing, noisy_runner, scramble


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """Function that returns the values of an uninterrupted run."""
    results = {}

    def run(by_epoch):
        if by_epoch not in results:
            folder = tmp_path_factory.mktemp('uninterrupted')
            noisy_runner(folder, by_epoch).train()
            results[by_epoch] = bits(folder)
        return results[by_epoch]

    return run


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize(
    ('where', 'count', 'number', 'code', 'written'),
    [
        # In the middle of an epoch, and after its last iteration but before after_train_epoch.
        ('before_train_iter', 8, signal.SIGTERM, 143, 8),
        ('after_train_iter', 10, signal.SIGINT, 130, 10),
        # An evaluation right after a checkpoint is aborted.
        ('before_val_iter', 1, signal.SIGTERM, 143, None),
    ],
)
def test_signal_ends_a_run_that_can_be_resumed(tmp_path, uninterrupted, by_epoch, where, count, number, code, written):
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(SystemExit) as caught:
        noisy_runner(tmp_path, by_epoch, hooks=(Sender(where, count, number, times=2),)).train()
    assert caught.value.code == code
    assert [signal.getsignal(number) for number in SIGNALS] == before, 'the handlers are restored'
    last = latest_checkpoint(Config(dict(work_dir=str(tmp_path))))
    regular = 'epoch_2.pth' if by_epoch else 'iter_6.pth'
    assert last == str(tmp_path / ('interrupted.pth' if written else regular))
    assert safe_load(last)['meta']['iter'] == (written or (10 if by_epoch else 6))
    scramble()
    noisy_runner(tmp_path, by_epoch, resume=True, load_from=last).train()
    assert not differing(bits(tmp_path), uninterrupted(by_epoch))


def test_evaluation_is_completed_if_no_checkpoint_precedes_it(tmp_path):
    """Otherwise the training since the last checkpoint would be lost."""
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=100))
    with pytest.raises(SystemExit):
        sender = Sender('before_val_iter', 1, signal.SIGTERM)
        noisy_runner(tmp_path, hooks=(sender,), default_hooks=hooks).train()
    stored = safe_load(tmp_path / 'interrupted.pth')
    assert (stored['meta']['epoch'], stored['meta']['iter']) == (2, 10) and stored['exact_resume']['metrics']


def test_checkpoint_of_the_same_iteration_is_not_written_twice(tmp_path):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=6, by_epoch=False))
    with pytest.raises(SystemExit):
        noisy_runner(tmp_path, hooks=(Sender('after_train_iter', 6, 15),), default_hooks=hooks).train()
    assert [file.name for file in tmp_path.glob('*.pth')] == ['iter_6.pth']


@pytest.mark.parametrize('number', SIGNALS)
def test_second_signal_ends_the_run_at_once(tmp_path, number):
    child = os.fork()
    if not child:
        hook = StopSignalHook()
        hook._process = os.getpid()
        for known in SIGNALS:
            signal.signal(known, hook._on_signal)
        os.kill(os.getpid(), number)
        hook._time -= 5
        os.kill(os.getpid(), number)
        os._exit(77)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number


@pytest.mark.parametrize('number', SIGNALS)
def test_workers_ignore_signals_to_the_process_group(tmp_path, number):
    """A worker that ended would end the run with an error and without a checkpoint."""

    class ToAll(Sender):
        def before_train_iter(self, runner, *args, **kwargs):
            if runner.iter == 6:
                workers = runner.train_loop.dataloader._iterator._workers
                for process in [os.getpid(), *(worker.pid for worker in workers)]:
                    os.kill(process, number)

    with pytest.raises(SystemExit) as caught:
        noisy_runner(tmp_path, workers=2, hooks=(ToAll('before_run', 0, 0),)).train()
    assert caught.value.code == 128 + number
    assert safe_load(tmp_path / 'interrupted.pth')['meta']['iter'] == 7


def sleep_ignoring_signals():
    IgnoreSignalsInWorker(None)(0)
    time.sleep(60)


@pytest.mark.parametrize('number', SIGNALS)
def test_workers_end_when_their_parent_ends_them(number):
    worker = multiprocessing.get_context('fork').Process(target=sleep_ignoring_signals)
    worker.start()
    time.sleep(0.3)
    subprocess.run(['kill', f'-{int(number)}', str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive(), 'the signal came from another process'
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def test_hook_does_nothing_outside_the_main_thread(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.engine.resume.stop_signal_hook.log', lines.append)
    thread = threading.Thread(target=noisy_runner(tmp_path).train)
    thread.start()
    thread.join()
    assert (tmp_path / 'epoch_4.pth').is_file() and 'main thread only' in lines[0]


def test_interval_is_checked():
    with pytest.raises(ValueError, match='interval'):
        StopSignalHook(interval=0)


def test_handlers_are_restored_if_training_fails(tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Cut):
        noisy_runner(tmp_path, hooks=(Cutter('after_train_iter', 2),)).train()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_evaluation_alone_builds_no_training_loop(tmp_path):
    runner = noisy_runner(tmp_path)
    # Runner.val and Runner.test call this.
    runner.call_hook('before_run')
    assert isinstance(runner._train_loop, dict)
