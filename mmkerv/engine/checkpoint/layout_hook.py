"""Checkpoints of other layouts, in the form in which mmengine's runner and hooks read them."""

import copy

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner, find_latest_checkpoint

from mmkerv.engine.checkpoint.layouts import COUNTERS, PARALLEL, container, fitted_names, unwrapped_names, weights_of
from mmkerv.errors import CheckpointMismatchError
from mmkerv.registry import HOOKS
from mmkerv.utils import bare_network


@HOOKS.register_module()
class CheckpointLayoutHook(Hook):
    """Hook that renames what the runner reads to the names of the network, before any other hook sees it.

    The runner removes ``module.`` from the keys itself, but only after hooks such as EMAHook have loaded the weights by
    the names in the file, and silently nothing of them if these differ.
    docs/pretraining.md lists the layouts.

    Raises:
        CheckpointMismatchError: if the checkpoint holds no weights by name, or averaged weights of another network.

    Example:
        >>> CheckpointLayoutHook().priority
        'HIGHEST'
    """

    priority = 'HIGHEST'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Rename the weights in place."""
        source = str(runner._load_from or find_latest_checkpoint(runner.work_dir))
        weights = fitted_names(weights_of(checkpoint, source), bare_network(runner.model).state_dict(), source)
        entry = container(checkpoint)
        if weights is not checkpoint.get('state_dict'):
            rest = {} if entry is None else {key: value for key, value in checkpoint.items() if key != entry}
            # With bare weights, the checkpoint is the same object.
            weights = copy.copy(weights)
            checkpoint.clear()
            checkpoint.update(rest, state_dict=weights)
        averages = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        if averages and isinstance(checkpoint.get('ema_state_dict'), dict):
            checkpoint['ema_state_dict'] = _averaged(checkpoint['ema_state_dict'], checkpoint['state_dict'], source)


def _averaged(averaged: dict, weights: dict, source: str) -> dict:
    """Return the averaged weights by the names that EMAHook swaps with those of the weights."""
    names = unwrapped_names(averaged)
    if others := [name for name in names if name not in weights and name not in COUNTERS]:
        raise CheckpointMismatchError(
            f'checkpoint {source!r} holds averaged weights of another network than its weights: {others[0]} and '
            f'{len(others) - 1} others are in ema_state_dict alone. Remove ema_state_dict from it, or EMAHook from the '
            'config'
        )
    counters = {name: averaged[name] for name in COUNTERS if name in averaged}
    return {**counters, **{f'{PARALLEL}{name}': value for name, value in names.items() if name not in COUNTERS}}
