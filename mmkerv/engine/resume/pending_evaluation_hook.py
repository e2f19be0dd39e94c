"""``PendingEvaluationHook``: run the evaluation that was skipped by an interruption."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmkerv.engine.resume.exact_resume_hook import EXACT_RESUME_KEY
from mmkerv.engine.resume.random_state import set_states
from mmkerv.registry import HOOKS
from mmkerv.utils import log

# Key of the state of early stopping in a checkpoint.
EARLY_STOPPING_KEY = 'early_stopping'


@HOOKS.register_module()
class PendingEvaluationHook(Hook):
    """Hook that runs a pending evaluation when training is resumed, and restores the state of early stopping.

    mmengine writes a checkpoint and then evaluates. A run that is interrupted in between resumes with training, so the
    best checkpoint, schedulers and early stopping never see the metrics of that evaluation. The hook needs the
    position that :class:`ExactResumeHook` stores, and does nothing without it.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.ExactResumeHook'), dict(type='mmkerv.PendingEvaluationHook')]
    """

    # After the hooks that prepare training, because the evaluation runs inside it.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._stored: dict[str, Any] | None = None
        self._early_stopping: dict[str, Any] = {}
        self._metrics_seen = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the stored states if the run is resumed."""
        if runner._resume and EXACT_RESUME_KEY in checkpoint:
            self._stored, self._early_stopping = checkpoint[EXACT_RESUME_KEY], checkpoint.get(EARLY_STOPPING_KEY, {})

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the state of early stopping, which mmengine does not."""
        if hooks := _early_stopping_hooks(runner):
            states = [(hook.wait_count, float(hook.best_score)) for hook in hooks]
            # 'heard' is the name in checkpoints written so far.
            checkpoint[EARLY_STOPPING_KEY] = {
                'states': states,
                'heard': self._metrics_seen,
                'stop': runner.train_loop.stop_training,
            }

    def before_val(self, runner: Runner) -> None:
        """Note that the hooks have not yet seen the metrics."""
        self._metrics_seen = False

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note that the other hooks have seen the metrics."""
        self._metrics_seen = True

    def before_train(self, runner: Runner) -> None:
        """Restore the states, and evaluate if the checkpoint was written between training and an evaluation."""
        stored, stopping = self._stored, self._early_stopping
        self._stored, self._early_stopping = None, {}
        if stored is None or runner.val_loop is None:
            return
        if is_main_process():
            set_states(stored['states'])
        hooks = _early_stopping_hooks(runner)
        for hook, state in zip(hooks, stopping.get('states', [])):
            hook.wait_count, hook.best_score = state
        runner.train_loop.stop_training = stopping.get('stop', False)
        if stored['metrics'] is None:
            if _is_due(runner.train_loop, stored['batch']):
                log(f'mmkerv: running the evaluation at iteration {runner.iter}, before which the run was interrupted')
                runner.val_loop.run()
        elif not stopping.get('heard', True):
            # CheckpointHook comes before early stopping and has already written the best checkpoint.
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


def _early_stopping_hooks(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
