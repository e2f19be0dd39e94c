"""``DueEvaluationHook``: the evaluation that an interruption has cut off is made up for when training is resumed."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmkerv.engine.exact_resume_hook import KEY
from mmkerv.engine.random_state import set_states
from mmkerv.registry import HOOKS
from mmkerv.utils import log

STOPPING = 'early_stopping'


@HOOKS.register_module()
class DueEvaluationHook(Hook):
    """Evaluate a resumed network where the run would have evaluated it next; keep what stops a run early.

    mmengine writes a checkpoint, then evaluates, and a resumed run goes on training: the best checkpoint, schedulers
    and early stopping that follow a metric never hear of that evaluation. It takes the place in the data that
    :class:`ExactResumeHook` stores, and without it does nothing.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.ExactResumeHook'), dict(type='mmkerv.DueEvaluationHook')]
    """

    # After the hooks that prepare themselves for the training in which the evaluation falls.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._stored: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what the checkpoint says, if training goes on from it."""
        if runner._resume and KEY in checkpoint:
            self._stored = checkpoint[KEY]
            for hook, state in zip(_stopping(runner), checkpoint.get(STOPPING, [])):
                hook.wait_count, hook.best_score = state

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the state of early stopping, which mmengine does not."""
        if hooks := _stopping(runner):
            checkpoint[STOPPING] = [(hook.wait_count, float(hook.best_score)) for hook in hooks]

    def before_train(self, runner: Runner) -> None:
        """Set the generators back, and evaluate if the checkpoint lies between training and an evaluation."""
        stored, self._stored = self._stored, None
        if stored is None or runner.val_loop is None:
            return
        if is_main_process():
            set_states(stored['states'])
        if stored['metrics'] is not None:
            # The checkpoint was written before these hooks, the last of all, had seen the metrics.
            for hook in _stopping(runner):
                hook.after_val_epoch(runner, stored['metrics'])
        elif _is_due(runner.train_loop, stored['batch']):
            for hook in runner.hooks:
                if isinstance(hook, CheckpointHook) and 'last_ckpt' in runner.message_hub.runtime_info:
                    # Without it a better network is saved, but not that it is the best now.
                    hook.last_ckpt = runner.message_hub.get_info('last_ckpt')
            log(f'mmkerv: the run was interrupted before evaluation at iteration {runner.iter}: it comes first')
            runner.val_loop.run()


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
