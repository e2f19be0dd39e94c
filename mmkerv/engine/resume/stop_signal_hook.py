"""``StopSignalHook``: SIGTERM and SIGINT end a run with a checkpoint and the exit status of the signal."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.fileio import join_path
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import BaseLoop, Runner

from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.ops.core.arguments import integer
from mmkerv.registry import HOOKS
from mmkerv.utils import log

SIGNALS = (signal.SIGTERM, signal.SIGINT)
INTERRUPTED_CHECKPOINT = 'interrupted.pth'
# Signals closer together than this, in seconds, count as one: a launcher and the terminal may both pass it on.
SAME_SIGNAL_INTERVAL = 1.0


@HOOKS.register_module()
class StopSignalHook(Hook):
    """Hook that on SIGTERM or SIGINT writes ``interrupted.pth`` after the iteration and exits with 143 or 130.

    ``--resume`` starts from that checkpoint. A second signal, a second or more later, ends the run at once. If there is
    a checkpoint of the same position already, none is written, and a running evaluation is aborted;
    :class:`PendingEvaluationHook` runs it on resume. Any of several processes may receive the signal; they synchronise
    every ``interval`` iterations.

    Args:
        interval: iterations between two synchronisations of several processes, >= 1; a single process stops after the
            iteration.

    Raises:
        ValueError: for an interval < 1.
        SystemExit: in training, after a signal.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.StopSignalHook')]
    """

    # After CheckpointHook, which may have written the checkpoint already.
    priority = 'LOWEST'

    def __init__(self, interval: int = 10):
        self.interval = integer(interval, 'interval', 1)
        self._signal, self._time, self._process = 0, 0.0, 0
        self._before: dict[int, Any] = {}
        self._written: tuple[int, int] | None = None

    def before_run(self, runner: Runner) -> None:
        """Wrap the training loop, so that the signal handlers are restored if training fails."""
        # In Runner.val and Runner.test, which call this too, the training loop is absent or not built.
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return
        run = loop.run

        def run_and_restore_handlers() -> Any:
            try:
                return run()
            finally:
                self.after_train(runner)

        loop.run = run_and_restore_handlers

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers, and make the workers of the data loaders ignore signals."""
        if threading.current_thread() is not threading.main_thread():
            log('mmkerv: StopSignalHook does nothing: Python handles signals in the main thread only')
            return
        self._signal, self._process = 0, os.getpid()
        self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            if not isinstance(loop.dataloader.worker_init_fn, IgnoreSignalsInWorker):
                loop.dataloader.worker_init_fn = IgnoreSignalsInWorker(loop.dataloader.worker_init_fn)

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return
        if not self._signal:
            self._signal, self._time = number, time.monotonic()
            # os.write, because a signal handler may interrupt the logger in the middle of a line.
            text = f'mmkerv: {signal.Signals(number).name}: stopping with a checkpoint; a second one stops at once\n'
            os.write(2, text.encode())
        elif time.monotonic() - self._time > SAME_SIGNAL_INTERVAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._process, number)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop if a signal has been received."""
        if number := self._agreed_signal(self.every_n_train_iters(runner, self.interval)):
            self._stop(runner, number, runner.epoch, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop if only this evaluation would be lost."""
        if self._signal and get_world_size() == 1 and self._written == (runner.epoch, runner.iter):
            self._stop(runner, self._signal, runner.epoch, runner.iter)

    def after_val(self, runner: Runner) -> None:
        """Stop if a signal has been received."""
        if number := self._agreed_signal(True):
            self._stop(runner, number, runner.epoch, runner.iter)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the position of the last checkpoint that training can be resumed from."""
        if 'optimizer' in checkpoint:
            self._written = checkpoint['meta']['epoch'], checkpoint['meta']['iter']

    def after_train(self, runner: Runner) -> None:
        """Restore the signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _agreed_signal(self, synchronise: bool) -> int:
        """Return the signal that any process has received, or 0."""
        if get_world_size() == 1:
            return self._signal
        if not synchronise:
            return 0
        received = torch.tensor(self._signal)
        all_reduce(received, op='max')
        return int(received)

    def _stop(self, runner: Runner, number: int, epoch: int, iteration: int) -> None:
        writer = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        folder, path = getattr(writer, 'out_dir', None) or runner.work_dir, getattr(writer, 'last_ckpt', None)
        if self._written != (epoch, iteration):
            meta = {'epoch': epoch, 'iter': iteration}
            backend = getattr(writer, 'backend_args', None)
            runner.save_checkpoint(folder, INTERRUPTED_CHECKPOINT, meta=meta, by_epoch=False, backend_args=backend)
            path = str(join_path(folder, INTERRUPTED_CHECKPOINT, backend_args=backend))
            if is_main_process():
                with atomic_path(Path(runner.work_dir, 'last_checkpoint')) as temporary:
                    temporary.write_text(path)
        # A launcher ends all processes as soon as one ends, so none may end before the main process has written.
        barrier()
        log(f'mmkerv: stopped by {signal.Signals(number).name}; checkpoint: {path}. --resume starts from it')
        self.after_train(runner)
        raise SystemExit(128 + number)


class IgnoreSignalsInWorker:
    """``worker_init_fn`` that makes a worker ignore SIGINT, and SIGTERM of any process but its parent.

    Terminals and launchers send both to whole process groups, and the main process needs its workers until it has
    stopped; then it ends them by SIGTERM.

    Args:
        init: another ``worker_init_fn`` to call, or ``None``.

    Example:
        >>> loader = torch.utils.data.DataLoader([1, 2], num_workers=1, worker_init_fn=IgnoreSignalsInWorker(None))
    """

    def __init__(self, init: Callable[[int], None] | None):
        self.init = init

    def __call__(self, worker: int) -> None:
        """Set the worker up."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, 'sigwaitinfo'):
            # Only sigwaitinfo reports the sender, and only of a signal that is blocked.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_exit_on_sigterm_of, args=(os.getppid(),), daemon=True).start()
        if self.init is not None:
            self.init(worker)


def _exit_on_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
