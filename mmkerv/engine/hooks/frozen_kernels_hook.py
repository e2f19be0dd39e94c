"""Hook that computes generated kernels once for each evaluation instead of once for each batch."""

from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkerv.ops import frozen_kernels
from mmkerv.registry import HOOKS


@HOOKS.register_module()
class FrozenKernelsHook(Hook):
    """Run validation and test inside ``mmkerv.ops.frozen_kernels``.

    The block opens at the first batch, after ``EMAHook`` has swapped its averaged weights in, and closes after the
    last, before they are swapped back. It also closes before a training epoch, in case an evaluation was aborted.

    Example:
        >>> FrozenKernelsHook().priority
        'VERY_HIGH'
    """

    # Its after_val_epoch must run before that of EMAHook, which swaps the weights back.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._open = ExitStack()

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Freeze at the first batch."""
        if batch_idx == 0:
            self._freeze(runner)

    before_test_iter = before_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Drop the kernels."""
        self._open.close()

    after_test_epoch = after_val_epoch

    def before_train_epoch(self, runner: Runner) -> None:
        """Drop the kernels an aborted evaluation may have left."""
        self._open.close()

    def _freeze(self, runner: Runner) -> None:
        self._open.close()
        self._open.enter_context(frozen_kernels(runner.model))
