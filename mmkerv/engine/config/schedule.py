"""A shorter or longer schedule: every position in it is scaled with its length, and every change is told."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.config import Config

from mmkerv.errors import ConfigError

UNITS = {'max_epochs': 'epoch', 'max_iters': 'iteration'}
FLAGS = {'epoch': '--epochs', 'iteration': '--iters'}
# Of a scheduler: lengths that often reach from begin to end, and all positions and lengths, these two first.
LENGTHS = ('T_max', 'total_steps')
POSITIONS = ('begin', 'end', *LENGTHS, 'step_size')
# Keys of hooks whose numbers look like positions; what they mean is the hook's.
POSITION_OF_A_HOOK = re.compile(r'(epochs?|iters?|begin|start|end|milestones?)$')


class Length(NamedTuple):
    """Length of a training.

    Args:
        unit: ``'epoch'`` or ``'iteration'``.
        number: number of these.

    Example:
        >>> str(Length('epoch', 12))
        '12 epochs'
    """

    unit: str
    number: int

    def __str__(self) -> str:
        return f'{self.number} {self.unit}{"s" if self.number != 1 else ""}'


def length(cfg: Config) -> Length:
    """Return the length of a config's training.

    Raises:
        ConfigError: if ``train_cfg`` has neither ``max_epochs`` nor ``max_iters``.

    Example:
        >>> length(Config(dict(train_cfg=dict(max_epochs=12))))
        Length(unit='epoch', number=12)
    """
    loop = cfg.get('train_cfg') or {}
    for key, unit in UNITS.items():
        if loop.get(key):
            return Length(unit, int(loop[key]))
    raise ConfigError(
        f'train_cfg has neither {" nor ".join(UNITS)}, got {dict(loop)}: the length of the training is unknown; set '
        'one of them in the config'
    )


def reschedule(cfg: Config, epochs: int | None = None, iters: int | None = None) -> list[str]:
    """Change the length of a training in place, and with it every position of its schedule.

    Begin, end and milestones of the schedulers and the intervals of validation and checkpoints are multiplied by the
    ratio of the lengths; milestones are rounded down, and those that would come before the first step are left out, as
    is a scheduler without a step. A length that reached from begin to end, such as the ``T_max`` of a cosine, still
    does: rounded by itself, it would end too early, and the learning rate would rise again. Hooks keep their numbers.

    Args:
        cfg: config.
        epochs: new number of epochs, of a config that counts epochs.
        iters: new number of iterations, of a config that counts iterations.

    Returns:
        What was changed, in words; nothing if neither number is given.

    Raises:
        ConfigError: if the config counts in the other unit.

    Example:
        >>> steps = dict(type='MultiStepLR', milestones=[8, 11])
        >>> cfg = Config(dict(train_cfg=dict(max_epochs=12, val_interval=1), param_scheduler=[steps]))
        >>> reschedule(cfg, epochs=6)
        ['train_cfg.max_epochs 12 -> 6', 'param_scheduler.0.milestones [8, 11] -> [4, 5]']
    """
    if epochs is None and iters is None:
        return []
    old = length(cfg)
    unit, number = ('epoch', epochs) if epochs is not None else ('iteration', iters)
    if unit != old.unit:
        raise ConfigError(f'{FLAGS[unit]}: the config counts {old.unit}s, it trains for {old}; use {FLAGS[old.unit]} N')
    key = next(key for key, name in UNITS.items() if name == unit)
    factor = number / old.number
    changes: list[str] = []
    _set(cfg.train_cfg, key, number, 'train_cfg', changes)
    for name in ('val_interval', 'val_begin'):
        if cfg.train_cfg.get(name):
            _set(cfg.train_cfg, name, _scaled(cfg.train_cfg[name], factor), 'train_cfg', changes)
    if cfg.train_cfg.get('dynamic_intervals'):
        pairs = [(int(begin * factor), interval) for begin, interval in cfg.train_cfg.dynamic_intervals]
        _set(cfg.train_cfg, 'dynamic_intervals', pairs, 'train_cfg', changes)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if hook and hook.get('interval', 1) > 0:
        interval = _scaled(hook.get('interval', 1), factor)
        _set(hook, 'interval', interval, 'default_hooks.checkpoint', changes)
    for place, scheduler in list(schedulers(cfg.get('param_scheduler'), 'param_scheduler')):
        _rescale(scheduler, factor, number, unit, place, changes)
    if changes:
        cfg.param_scheduler = _kept(cfg.get('param_scheduler'))
    return changes


def positions_of_hooks(cfg: Config) -> list[str]:
    """Return the settings of the config's own hooks that look like positions in the schedule, in words.

    Example:
        >>> positions_of_hooks(Config(dict(custom_hooks=[dict(type='YOLOXModeSwitchHook', num_last_epochs=15)])))
        ['YOLOXModeSwitchHook.num_last_epochs=15']
    """
    found = []
    for hook in cfg.get('custom_hooks') or []:
        kind = str(hook.get('type')).rpartition('.')[2].strip("'>")
        for key, value in hook.items():
            is_number = isinstance(value, int) and not isinstance(value, bool)
            if is_number and POSITION_OF_A_HOOK.search(key):
                found.append(f'{kind}.{key}={value}')
    return found


def _scaled(value: float, factor: float) -> int:
    return max(1, round(value * factor))


def _set(node: dict, key: str, value: Any, place: str, changes: list[str]) -> None:
    if node.get(key) != value:
        changes.append(f'{place}.{key} {node.get(key)} -> {value}')
        node[key] = value


def schedulers(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    """Yield the schedulers of a config: one, a list, or such by the name of an optimizer."""
    if isinstance(node, dict):
        if 'type' in node:
            yield place, node
        else:
            for key, value in node.items():
                yield from schedulers(value, f'{place}.{key}')
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from schedulers(value, f'{place}.{number}')


def _rescale(scheduler: dict, factor: float, number: int, unit: str, place: str, changes: list[str]) -> None:
    by_epoch = scheduler.get('by_epoch', True)
    # A scheduler in iterations within a training in epochs ends an unknown number of these before it.
    last = number if by_epoch == (unit == 'epoch') else None
    whole = _span(scheduler)
    for key in POSITIONS:
        value = scheduler.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) != float('inf'):
            scaled = round(value * factor) if key == 'begin' else _scaled(value, factor)
            if key in LENGTHS and value == whole:
                scaled = max(1, _span(scheduler))
            _set(scheduler, key, scaled, place, changes)
    if periods := scheduler.get('periods'):
        scaled = [_scaled(period, factor) for period in periods]
        if sum(periods) == whole:
            scaled[-1] = max(1, _span(scheduler) - sum(scaled[:-1]))
        _set(scheduler, 'periods', scaled, place, changes)
    if scheduler.get('milestones'):
        steps = [int(step * factor) for step in scheduler['milestones']]
        _set(scheduler, 'milestones', [s for s in steps if s and (last is None or s < last)], place, changes)
    # mmengine divides by the steps after the first.
    if _span(scheduler) < (1 if by_epoch and scheduler.get('convert_to_iter_based') else 2):
        changes.append(f'{place} left out: it would have no step')
        scheduler.clear()


def _span(scheduler: dict) -> float:
    """Return the number of steps of a scheduler."""
    return scheduler.get('end', float('inf')) - scheduler.get('begin', 0)


def _kept(node: Any) -> Any:
    """Return the schedulers without those that were left out."""
    if isinstance(node, dict) and 'type' not in node:
        return {key: _kept(value) for key, value in node.items()} or None
    if isinstance(node, (list, tuple)):
        return [_kept(value) for value in node if value]
    return node
