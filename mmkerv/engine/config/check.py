"""Check a config before anything is built: operators, hooks and paths of the data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmkerv import ops
from mmkerv.distributions import importable
from mmkerv.errors import ArgumentError, ArgumentTypeError, ConfigError
from mmkerv.models.placement import Where
from mmkerv.models.replacement import own_arguments, registered_convolution
from mmkerv.ops.core.arguments import nearest, reject_from_network
from mmkerv.registry import OPERATORS, PLAIN, local_name, operator_name

RENAMED_HOOKS = {
    'KeepWrittenHook': 'DeferredRemovalHook',
    'SoundCheckpointHook': 'FiniteCheckpointHook',
    'DueEvaluationHook': 'PendingEvaluationHook',
    'FrozenOperatorsHook': 'CheckFrozenOperatorsHook',
}


def check_operators(node: Any, place: str, scope: str | None = None) -> None:
    """Check the type and arguments of every ``conv_cfg`` in a part of a config, and the ``where`` beside it.

    Args:
        node: that part.
        place: its dotted key.
        scope: ``default_scope`` of the config, in which a type that is not mmkerv's is looked up.

    Raises:
        ConfigError: naming the key, the argument and the rule.

    Example:
        >>> check_operators({'backbone': {'conv_cfg': {'type': 'CoCConv', 'association': 3}}}, 'model')
    """
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    if isinstance(node.get('where'), dict) and local_name(node.get('type'), ('mmkerv',)):
        check_where(node['where'], f'{place}.where')
    for key, value in node.items():
        is_conv_cfg = str(key).endswith('conv_cfg') and isinstance(value, dict)
        name = operator_name(value.get('type')) if is_conv_cfg else None
        if name is None:
            if is_conv_cfg:
                _check_conv_type(value.get('type'), f'{place}.{key}', scope)
            check_operators(value, f'{place}.{key}', scope)
            continue
        try:
            check_arguments(name, {k: v for k, v in value.items() if k != 'type'})
        except (ArgumentError, ArgumentTypeError) as error:
            raise ConfigError(
                f'{place}.{key}: {error}. Change the config, or give another value with --cfg-options '
                f'{place}.{key}.ARGUMENT=VALUE'
            ) from error


def _check_conv_type(kind: Any, place: str, scope: str | None) -> None:
    """Refuse the name of a convolution that nothing registers; mmcv's message would not have the name."""
    # Without mmcv its convolutions are not known.
    if not isinstance(kind, str) or kind in ('Conv2d', *PLAIN) or not importable('mmcv'):
        return
    with DefaultScope.overwrite_default_scope(scope):
        if registered_convolution(kind) is not None:
            return
    name = kind.strip().rpartition('.')[2]
    near = nearest(name, OPERATORS)
    meant = f"; did you mean 'mmkerv.{near}'?" if near else '.'
    raise ConfigError(
        f'{place}.type: {kind!r} is neither an operator of mmkerv nor a registered convolution{meant} '
        f'mmkerv.list_operators() lists the operators. Change it in the config, or by --cfg-options {place}.type=NAME; '
        'a convolution of your own needs custom_imports=dict(imports=[MODULE], allow_failed_imports=False)'
    )


def check_where(where: dict, place: str) -> None:
    """Check a ``where`` of a config.

    Raises:
        ConfigError: naming its dotted key, the key or value in it, and the rule.

    Example:
        >>> check_where(dict(stages=(2, 3)), 'model.backbone.where')
    """
    try:
        Where.of(where)
    except (ArgumentError, ArgumentTypeError) as error:
        raise ConfigError(
            f'{place}: {error}. Change the config, or give another value with --cfg-options {place}.KEY=VALUE'
        ) from error


def check_arguments(operator: str, options: dict[str, Any]) -> None:
    """Check the arguments of an operator without drawing from the global random numbers.

    Raises:
        ValueError: for a value that the operator does not take.
        TypeError: for an unknown argument.

    Example:
        >>> check_arguments('CoCConv', {'super_bias': True})
    """
    kind = getattr(ops, operator)
    reject_from_network(operator, options, own_arguments(kind))
    with torch.random.fork_rng(devices=[]):
        # A 1x1 convolution is the smallest layer whose arguments are checked.
        kind(1, 1, 1, **options)


def check_hooks(cfg: Config) -> None:
    """Refuse the hook names of mmkerv's development versions, as dumped configs have them, and a bad ``where``.

    Raises:
        ConfigError: naming the old and the new name, or what is wrong with ``where``.

    Example:
        >>> check_hooks(Config(dict(custom_hooks=[dict(type='mmkerv.DeferredRemovalHook')])))
    """
    for key, hook in _hooks(cfg):
        kind = str(hook.get('type')) if isinstance(hook, dict) else ''
        name = kind.rpartition('.')[2]
        if kind in (name, f'mmkerv.{name}') and name in RENAMED_HOOKS:
            raise ConfigError(f'hook {kind!r} is now called {RENAMED_HOOKS[name]!r}: change its type in the config')
        is_ours = isinstance(hook, dict) and local_name(hook.get('type'), ('mmkerv',))
        if is_ours and isinstance(hook.get('where'), dict):
            check_where(hook['where'], f'{key}.where')


def _hooks(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Yield the hooks of a config with their dotted keys."""
    yield from ((f'custom_hooks.{i}', hook) for i, hook in enumerate(cfg.get('custom_hooks') or []))
    yield from ((f'default_hooks.{name}', hook) for name, hook in (cfg.get('default_hooks') or {}).items())


def check_data(cfg: Config, phase: str) -> None:
    """Check that the folders and files of a phase's data sets exist if they are local, and that classes are names.

    Args:
        cfg: config.
        phase: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ConfigError: naming the phase, the path and the option that changes it; or a string in place of the classes.

    Example:
        >>> check_data(Config(dict(val_dataloader=None)), 'val')
    """
    loader = cfg.get(f'{phase}_dataloader')
    for place, dataset in datasets(loader, f'{phase}_dataloader'):
        _check_classes(dataset, place)
        root, annotations = dataset.get('data_root') or '', dataset.get('ann_file') or ''
        if dataset.get('backend_args') or '://' in f'{root}{annotations}':
            continue
        files = [('data_root', root, Path(root).is_dir())] if root else []
        if isinstance(annotations, str) and annotations:
            path = Path(root, annotations)
            # The annotations of DOTA are a folder with a text for each image.
            files.append(('ann_file', str(path), path.is_file() or any(path.glob('*.txt'))))
        for key, path, exists in files:
            if not exists:
                lacks = ' or has no texts' if Path(path).is_dir() else ''
                message = (
                    f'{place}.{key}: {path!r} does not exist{lacks} (seen from {Path.cwd()}). Put the data there, or '
                    f'say where it is with --cfg-options data_root=DIR (or {place}.{key}=...)'
                )
                if key == 'ann_file' and Path(path).name == 'aug.txt':
                    # The list of VOC 2012's additional annotations, which upstream's converter writes.
                    message += (
                        '. To train without the additional annotations of VOC 2012, use configs/fcn_r50d8_voc12.py or '
                        'the base configs/_base_/datasets/voc12.py, or add --cfg-options '
                        f'{place}.ann_file=ImageSets/Segmentation/train.txt '
                        f'{place}.data_prefix.seg_map_path=SegmentationClass'
                    )
                raise ConfigError(message)


def _check_classes(dataset: dict, place: str) -> None:
    """Refuse a string as classes, unless it is a file of their names: ``('circle')`` is no tuple."""
    for key, classes in {**(dataset.get('metainfo') or {}), 'classes=': dataset.get('classes')}.items():
        if key.lower().rstrip('=') == 'classes' and isinstance(classes, str) and not Path(classes).is_file():
            argument = 'classes' if key.endswith('=') else f'metainfo.{key}'
            raise ConfigError(
                f'{place}.{argument} must be a sequence of names or the file of a list of names, got the string '
                f'{classes!r}; write ({classes!r},), with the comma'
            )


def loaders(cfg: Config, phase: str) -> list[tuple[str, dict]]:
    """Return the data loaders of a phase with their dotted keys; a config may have a list of them.

    Args:
        cfg: config.
        phase: ``'train'``, ``'val'`` or ``'test'``.

    Example:
        >>> [key for key, _ in loaders(Config(dict(val_dataloader=[dict(batch_size=1)])), 'val')]
        ['val_dataloader.0']
    """
    key = f'{phase}_dataloader'
    loader = cfg.get(key)
    if isinstance(loader, (list, tuple)):
        return [(f'{key}.{i}', each) for i, each in enumerate(loader)]
    return [(key, loader)] if loader else []


def datasets(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    """Yield the innermost data sets, looking through wrappers such as RepeatDataset and ConcatDataset.

    Args:
        node: part of a config.
        place: its dotted key.

    Example:
        >>> list(datasets(dict(type='RepeatDataset', dataset=dict(type='A')), 'train_dataloader'))
        [('train_dataloader.dataset', {'type': 'A'})]
    """
    if isinstance(node, dict):
        inner = [key for key in ('dataset', 'datasets') if key in node]
        for key in inner:
            yield from datasets(node[key], f'{place}.{key}')
        if not inner and ('type' in node or '.dataset' in place):
            yield place, node
    elif isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from datasets(item, f'{place}.{i}')
