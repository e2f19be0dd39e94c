"""``PendingEvaluationHook``: the evaluation that an interruption has cut off is made up for when training is resumed."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmkerv.engine.resume.exact_resume_hook import KEY
from mmkerv.engine.resume.random_state import set_states
from mmkerv.registry import HOOKS
from mmkerv.utils import log

STOPPING = 'early_stopping'


@HOOKS.register_module()
class PendingEvaluationHook(Hook):
    """Evaluate a resumed network where the run would have evaluated it next; keep what stops a run early.

    mmengine writes a checkpoint, then evaluates, and a resumed run goes on training: the best checkpoint, schedulers
    and early stopping that follow a metric never hear of that evaluation. It takes the place in the data that
    :class:`ExactResumeHook` stores, and without it does nothing.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.ExactResumeHook'), dict(type='mmkerv.PendingEvaluationHook')]
    """

    # After the hooks that prepare themselves for the training in which the evaluation falls.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._stored: dict[str, Any] | None = None
        self._stopping: dict[str, Any] = {}
        self._heard = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what the checkpoint says, if training goes on from it."""
        if runner._resume and KEY in checkpoint:
            self._stored, self._stopping = checkpoint[KEY], checkpoint.get(STOPPING, {})

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the state of early stopping, which mmengine does not."""
        if hooks := _stopping(runner):
            states = [(hook.wait_count, float(hook.best_score)) for hook in hooks]
            checkpoint[STOPPING] = {'states': states, 'heard': self._heard, 'stop': runner.train_loop.stop_training}

    def before_val(self, runner: Runner) -> None:
        """Expect metrics."""
        self._heard = False

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remember that the other hooks have heard of the metrics."""
        self._heard = True

    def before_train(self, runner: Runner) -> None:
        """Set back what was stored, and evaluate if the checkpoint lies between training and an evaluation."""
        stored, stopping = self._stored, self._stopping
        self._stored, self._stopping = None, {}
        if stored is None or runner.val_loop is None:
            return
        if is_main_process():
            set_states(stored['states'])
        hooks = _stopping(runner)
        for hook, state in zip(hooks, stopping.get('states', [])):
            hook.wait_count, hook.best_score = state
        runner.train_loop.stop_training = stopping.get('stop', False)
        if stored['metrics'] is None:
            if _is_due(runner.train_loop, stored['batch']):
                log(f'mmkerv: the run was interrupted before evaluation at iteration {runner.iter}: it comes first')
                runner.val_loop.run()
        elif not stopping.get('heard', True):
            # Early stopping comes after CheckpointHook, which has written a better network before.
            for hook in hooks:
                hook.after_val_epoch(runner, stored['metrics'])


def _is_due(loop: Any, batch: int) -> bool:
    loop._decide_current_val_interval()
    if isinstance(loop, IterBasedTrainLoop):
        done, last = loop.iter, loop.max_iters
    elif isinstance(loop, EpochBasedTrainLoop) and not batch:
        done, last = loop.epoch, loop.max_epochs
    else:
        return False
    return done > 0 and done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)


def _stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
