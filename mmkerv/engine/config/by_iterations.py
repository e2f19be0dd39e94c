"""A training in epochs turned into one in iterations, and a training of a given number of iterations."""

import math
import os
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import Runner

from mmkerv.engine.config.schedule import length, positions_of_hooks, reschedule, schedulers
from mmkerv.engine.scope import enter_scope
from mmkerv.errors import ConfigError
from mmkerv.registry import local_name

EPOCH_LOOP, ITERATION_LOOP = 'EpochBasedTrainLoop', 'IterBasedTrainLoop'
# Keys of a scheduler that hold a position or a length.
POSITIONS = ('begin', 'end', 'T_max', 'total_steps', 'step_size')
SEQUENCES = ('milestones', 'periods')
# It steps after evaluations.
AFTER_EVALUATION = 'ReduceOnPlateau'
# Where launchers say how many processes there are.
WORLD_SIZE = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS', 'mpi': 'OMPI_COMM_WORLD_SIZE'}
# A short run has at least so many logged losses.
LOGGED = 20


def limit_iterations(cfg: Config, iters: int, iterations_of_an_epoch: Callable[[], int]) -> list[str]:
    """Make a training have a given number of iterations, in place, with its schedule scaled.

    A training in epochs becomes one in iterations. Evaluations and checkpoints come as often as before, counted in
    iterations, and at the end at the latest; losses are logged at least 20 times.

    Args:
        cfg: config.
        iters: number of iterations, of optimizer steps without accumulation.
        iterations_of_an_epoch: function that counts them; called only if the config trains in epochs.

    Returns:
        What was changed, in words.

    Raises:
        ConfigError: if the config trains in epochs by a loop of its own.

    Example:
        >>> steps = dict(type='MultiStepLR', milestones=[8, 11])
        >>> cfg = Config(dict(train_cfg=dict(max_epochs=12), param_scheduler=[steps]))
        >>> limit_iterations(cfg, 60, lambda: 100)[0]
        '12 epochs of 100 iterations -> 60 iterations'
        >>> cfg.train_cfg.max_iters, cfg.param_scheduler[0].milestones
        (60, [40, 55])
    """
    old, steps = length(cfg), None
    if old.unit == 'epoch':
        steps = iterations_of_an_epoch()
        count_iterations(cfg, steps)
    every = cfg.train_cfg.get('val_interval')
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    saved = checkpoint.get('interval', -1)
    changes = reschedule(cfg, iters=iters)
    if every:
        cfg.train_cfg.val_interval = min(every, iters)
    if saved > 0:
        checkpoint['interval'] = min(saved, iters)
    if logger := (cfg.get('default_hooks') or {}).get('logger'):
        logger['interval'] = min(logger.get('interval', 10), max(1, iters // LOGGED))
    kept = positions_of_hooks(cfg)
    told = (f'{old} of {steps} iterations' if steps else f'{old}') + f' -> {iters} iterations'
    shown = [change for change in changes if change.startswith('param_scheduler')]
    return [told, *shown, *([f'not scaled, see what these hooks do: {", ".join(kept)}'] if kept else [])]


def count_iterations(cfg: Config, steps: int) -> None:
    """Turn a training in epochs into the same in iterations, in place.

    Args:
        cfg: config that trains in epochs.
        steps: iterations of an epoch, > 0.

    Raises:
        ConfigError: if it trains by a loop of its own.

    Example:
        >>> cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1)))
        >>> count_iterations(cfg, 100)
        >>> cfg.train_cfg
        {'type': 'IterBasedTrainLoop', 'max_iters': 300, 'val_interval': 100}
    """
    loop = cfg.train_cfg
    kind = local_name(loop.get('type', EPOCH_LOOP), ('', 'mmengine'))
    if kind != EPOCH_LOOP:
        raise ConfigError(
            f'--max-iters: the config trains in epochs by {loop.get("type")!r}, whose loop in iterations is not known; '
            f'use {EPOCH_LOOP}, or set train_cfg.max_epochs'
        )
    # Epochs are counted from 1 here.
    begin = {'val_begin': (loop['val_begin'] - 1) * steps + 1} if loop.get('val_begin') else {}
    pairs = [((first - 1) * steps + 1, interval * steps) for first, interval in loop.get('dynamic_intervals') or ()]
    cfg.train_cfg = {
        'type': ITERATION_LOOP,
        'max_iters': loop['max_epochs'] * steps,
        'val_interval': loop.get('val_interval', 1) * steps,
        **begin,
        **({'dynamic_intervals': pairs} if pairs else {}),
    }
    for _, scheduler in schedulers(cfg.get('param_scheduler'), 'param_scheduler'):
        if scheduler.get('by_epoch', True) and not _kind(scheduler).startswith(AFTER_EVALUATION):
            _count_steps(scheduler, steps)
    hooks = cfg.setdefault('default_hooks', {})
    for name, kind in (('logger', 'LoggerHook'), ('checkpoint', 'CheckpointHook')):
        if hooks.get(name) is None:
            hooks[name] = {'type': kind}
    hooks['logger']['log_metric_by_epoch'] = False
    checkpoint = hooks['checkpoint']
    if checkpoint.get('by_epoch', True):
        checkpoint['by_epoch'] = False
        for key in ('interval', 'save_begin'):
            if checkpoint.get(key, 0) > 0:
                checkpoint[key] *= steps
    cfg.log_processor = {**(cfg.get('log_processor') or {}), 'by_epoch': False}


def iterations_of_an_epoch(cfg: Config) -> int:
    """Count the iterations of an epoch of each process; the data is read for it.

    Example:
        >>> iterations_of_an_epoch(cfg)  # doctest: +SKIP
        7330
    """
    enter_scope(cfg)
    number = len(Runner.build_dataloader(cfg.train_dataloader))
    if dist.is_available() and dist.is_initialized():
        return number
    # The runner joins the processes later.
    return max(1, math.ceil(number / int(os.environ.get(WORLD_SIZE.get(cfg.get('launcher'), ''), 1))))


def _count_steps(scheduler: dict[str, Any], steps: int) -> None:
    """Write the positions of a scheduler in iterations."""
    for key in POSITIONS:
        value = scheduler.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) != float('inf'):
            scheduler[key] = value * steps
    for key in SEQUENCES:
        if scheduler.get(key):
            scheduler[key] = [value * steps for value in scheduler[key]]
    # The factor of an epoch, spread over its iterations.
    if _kind(scheduler).startswith('Exponential') and scheduler.get('gamma'):
        scheduler['gamma'] = scheduler['gamma'] ** (1 / steps)
    scheduler.pop('convert_to_iter_based', None)
    scheduler['by_epoch'] = False


def _kind(scheduler: dict[str, Any]) -> str:
    kind = scheduler['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')
