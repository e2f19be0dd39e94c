"""Hook that shows the progress of a run as a bar with the time that is left."""

import shutil
import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from tqdm import tqdm

FORMAT = '{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {elapsed} passed, ETA {remaining}{postfix}'
# Seconds between two changes of what stands beside the bar.
SECONDS = 0.5


class Bar(tqdm):
    """Bar of tqdm without the thread that watches it, because loaders of data fork this process.

    Example:
        >>> Bar.monitor_interval
        0
    """

    monitor_interval = 0


class ProgressBarHook(Hook):
    """Draw one bar for the whole training, evaluations included, or for a test.

    The logger's handler must know of it, because it writes its lines above the bar: mmkerv's tools add this hook where
    the terminal is one.

    Args:
        handler: handler of the terminal, with a ``stream`` and the flag ``has_bar``.

    Example:
        >>> from mmkerv.engine.console.short_log import TerminalHandler
        >>> import sys
        >>> ProgressBarHook(TerminalHandler(sys.stdout)).priority
        'VERY_LOW'
    """

    priority = 'VERY_LOW'

    def __init__(self, handler: Any):
        self._handler = handler
        self._bar: Bar | None = None
        self._changed = 0.0

    def before_train(self, runner: Runner) -> None:
        """Open the bar, at the iteration that a resumed training goes on from."""
        self._open(runner.max_iters, runner.iter)

    def before_train_epoch(self, runner: Runner) -> None:
        """Name the epoch."""
        if self._bar is not None:
            self._bar.set_description_str(_epoch(runner), refresh=False)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Go on by one iteration."""
        if self._bar is None:
            return
        if self._is_due():
            scalars = runner.message_hub.log_scalars
            values = {key: scalars[f'train/{key}'].current() for key in ('loss', 'lr') if f'train/{key}' in scalars}
            self._bar.set_postfix(values, refresh=False)
        self._bar.update()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Show beside the bar of the training how far the evaluation is."""
        if self._bar is None:
            return
        total = len(runner.val_dataloader)
        if batch_idx + 1 == total:
            # Metrics print tables.
            self._bar.set_description_str(_epoch(runner), refresh=False)
            self._bar.clear()
        elif self._is_due():
            self._bar.set_description_str(f'{_epoch(runner)}evaluation {batch_idx + 1}/{total} ')

    def before_test(self, runner: Runner) -> None:
        """Open a bar for the test."""
        self._open(len(runner.test_dataloader), 0)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Go on by one batch; close the bar before metrics print tables."""
        if self._bar is not None:
            self._bar.update()
            if self._bar.n == self._bar.total:
                self.close()

    def after_train(self, runner: Runner) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Close the bar; what was drawn stays.

        Example:
            >>> ProgressBarHook(None).close()
        """
        if self._bar is not None:
            self._bar.close()
            self._bar, self._handler.has_bar = None, False

    def _open(self, total: int, done: int) -> None:
        self.close()
        self._bar = Bar(
            total=total,
            initial=done,
            file=self._handler.stream,
            bar_format=FORMAT,
            ncols=_columns(),
            # tqdm's own look at the terminal hides the bar where that says it has no rows, as in some containers.
            nrows=20,
            smoothing=0.05,
        )
        self._handler.has_bar = True

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._changed < SECONDS:
            return False
        self._changed = now
        # The window may have another width by now.
        self._bar.ncols = _columns()
        return True


def _columns() -> int:
    return shutil.get_terminal_size().columns - 1


def _epoch(runner: Runner) -> str:
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return f'epoch {min(runner.epoch + 1, runner.max_epochs)}/{runner.max_epochs} '
    return ''
