"""``StopSignalHook``: SIGTERM and SIGINT end a run with a checkpoint and the right exit status."""

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
NAME = 'interrupted.pth'
# A launcher and the terminal may both pass on one signal: what comes sooner than this is no second one.
PATIENCE = 1.0


@HOOKS.register_module()
class StopSignalHook(Hook):
    """On SIGTERM or SIGINT, end the iteration or evaluation, write ``interrupted.pth`` and exit with 143 or 130.

    ``--resume`` goes on from there. A second signal, a second or more later, ends the run at once. Nothing is written
    where a checkpoint of the same position is there already; an evaluation is broken off then, and made up for by
    :class:`PendingEvaluationHook`. Of several processes any may get the signal: they agree every ``interval`` iterations.

    Args:
        interval: iterations between two agreements of several processes, >= 1; one process alone stops at once.

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
        """See to it that a training that fails leaves the signals as it found them, too."""
        # Runner.val and Runner.test come here too, with no loop of training or one that is not built.
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return
        run = loop.run

        def run_and_leave() -> Any:
            try:
                return run()
            finally:
                self.after_train(runner)

        loop.run = run_and_leave

    def before_train(self, runner: Runner) -> None:
        """Listen, and let the workers of the data loaders pass over what is sent to all processes."""
        if threading.current_thread() is not threading.main_thread():
            log('mmkerv: StopSignalHook does nothing: Python hears signals in the main thread only')
            return
        self._signal, self._process = 0, os.getpid()
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            if not isinstance(loop.dataloader.worker_init_fn, IgnoreSignalsInWorker):
                loop.dataloader.worker_init_fn = IgnoreSignalsInWorker(loop.dataloader.worker_init_fn)

    def _hear(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return
        if not self._signal:
            self._signal, self._time = number, time.monotonic()
            # Logging from a signal handler could come in the middle of a line that is being logged.
            text = f'mmkerv: {signal.Signals(number).name}: stopping with a checkpoint; a second one stops at once\n'
            os.write(2, text.encode())
        elif time.monotonic() - self._time > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._process, number)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop, if it is time to."""
        if number := self._agreed(self.every_n_train_iters(runner, self.interval)):
            self._stop(runner, number, runner.epoch, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop, if nothing but this evaluation would be lost."""
        if self._signal and get_world_size() == 1 and self._written == (runner.epoch, runner.iter):
            self._stop(runner, self._signal, runner.epoch, runner.iter)

    def after_val(self, runner: Runner) -> None:
        """Stop, if it is time to."""
        if number := self._agreed(True):
            self._stop(runner, number, runner.epoch, runner.iter)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember of which position there is a checkpoint that training can go on from."""
        if 'optimizer' in checkpoint:
            self._written = checkpoint['meta']['epoch'], checkpoint['meta']['iter']

    def after_train(self, runner: Runner) -> None:
        """Leave the signals as they were found."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _agreed(self, now: bool) -> int:
        """The signal that all processes have agreed on, or 0."""
        if get_world_size() == 1:
            return self._signal
        if not now:
            return 0
        heard = torch.tensor(self._signal)
        all_reduce(heard, op='max')
        return int(heard)

    def _stop(self, runner: Runner, number: int, epoch: int, iteration: int) -> None:
        writer = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        folder, where = getattr(writer, 'out_dir', None) or runner.work_dir, getattr(writer, 'last_ckpt', None)
        if self._written != (epoch, iteration):
            meta = {'epoch': epoch, 'iter': iteration}
            backend = getattr(writer, 'backend_args', None)
            runner.save_checkpoint(folder, NAME, meta=meta, by_epoch=False, backend_args=backend)
            where = str(join_path(folder, NAME, backend_args=backend))
            if is_main_process():
                with atomic_path(Path(runner.work_dir, 'last_checkpoint')) as temporary:
                    temporary.write_text(where)
        # A launcher that sees one process end ends the others: none does before the first has written.
        barrier()
        log(f'mmkerv: stopped by {signal.Signals(number).name}; checkpoint: {where}. --resume goes on from it')
        self.after_train(runner)
        raise SystemExit(128 + number)


class IgnoreSignalsInWorker:
    """A ``worker_init_fn`` after which a worker passes over SIGINT, and SIGTERM from others than its parent.

    Both are sent to whole groups of processes, and the main process needs its workers until it has stopped; then it
    ends them by SIGTERM.

    Args:
        init: what else is called, or ``None``.

    Example:
        >>> loader = torch.utils.data.DataLoader([1, 2], num_workers=1, worker_init_fn=IgnoreSignalsInWorker(None))
    """

    def __init__(self, init: Callable[[int], None] | None):
        self.init = init

    def __call__(self, worker: int) -> None:
        """Set the worker up."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, 'sigwaitinfo'):
            # Only who waits for a signal learns who sent it, and it must not be handled otherwise.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        if self.init is not None:
            self.init(worker)


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
