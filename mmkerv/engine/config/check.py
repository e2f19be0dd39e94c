"""Check a config before anything is built: operators, hooks and paths of the data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkerv import ops
from mmkerv.errors import ArgumentError, ArgumentTypeError, ConfigError
from mmkerv.registry import operator_name

RENAMED_HOOKS = {
    'KeepWrittenHook': 'DeferredRemovalHook',
    'SoundCheckpointHook': 'FiniteCheckpointHook',
    'DueEvaluationHook': 'PendingEvaluationHook',
    'FrozenOperatorsHook': 'CheckFrozenOperatorsHook',
}


def check_operators(node: Any, place: str) -> None:
    """Check the arguments of every operator in a part of a config.

    Args:
        node: that part.
        place: its dotted key.

    Raises:
        ConfigError: naming the key, the argument and the rule.

    Example:
        >>> check_operators({'backbone': {'conv_cfg': {'type': 'CoCConv', 'association': 3}}}, 'model')
    """
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        name = operator_name(value.get('type')) if str(key).endswith('conv_cfg') and isinstance(value, dict) else None
        if name is None:
            check_operators(value, f'{place}.{key}')
            continue
        try:
            # A 1x1 convolution is the smallest layer whose arguments are checked.
            getattr(ops, name)(1, 1, 1, **{k: v for k, v in value.items() if k != 'type'})
        except (ArgumentError, ArgumentTypeError) as error:
            raise ConfigError(
                f'{place}.{key}: {error}. Change the config, or give another value with --cfg-options '
                f'{place}.{key}.ARGUMENT=VALUE'
            ) from error


def check_hooks(cfg: Config) -> None:
    """Refuse the hook names of mmkerv's development versions, as a config dumped by one of them has.

    Raises:
        ConfigError: naming the old and the new name.

    Example:
        >>> check_hooks(Config(dict(custom_hooks=[dict(type='mmkerv.DeferredRemovalHook')])))
    """
    for hook in [*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values()]:
        kind = str(hook.get('type')) if isinstance(hook, dict) else ''
        name = kind.rpartition('.')[2]
        if kind in (name, f'mmkerv.{name}') and name in RENAMED_HOOKS:
            raise ConfigError(f'hook {kind!r} is now called {RENAMED_HOOKS[name]!r}: change its type in the config')


def check_data(cfg: Config, phase: str) -> None:
    """Check that the folders and annotation files of a phase's data sets exist if they are local.

    Args:
        cfg: config.
        phase: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ConfigError: naming the phase, the path and the option that changes it.

    Example:
        >>> check_data(Config(dict(val_dataloader=None)), 'val')
    """
    loader = cfg.get(f'{phase}_dataloader')
    for place, dataset in _datasets(loader, f'{phase}_dataloader'):
        root, annotations = dataset.get('data_root') or '', dataset.get('ann_file') or ''
        if dataset.get('backend_args') or '://' in f'{root}{annotations}':
            continue
        files = [('data_root', root, Path(root).is_dir())] if root else []
        if isinstance(annotations, str) and annotations:
            path = Path(root, annotations)
            files.append(('ann_file', str(path), path.is_file()))
        for key, path, exists in files:
            if not exists:
                raise ConfigError(
                    f'{place}.{key}: {path!r} does not exist (seen from {Path.cwd()}). Put the data there, or say '
                    f'where it is with --cfg-options data_root=DIR (or {place}.{key}=...)'
                )


def _datasets(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    """Yield the innermost data sets, looking through wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(node, dict):
        inner = [key for key in ('dataset', 'datasets') if key in node]
        for key in inner:
            yield from _datasets(node[key], f'{place}.{key}')
        if not inner and 'type' in node:
            yield place, node
    elif isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from _datasets(item, f'{place}.{i}')
