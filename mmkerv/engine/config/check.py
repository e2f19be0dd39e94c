"""Check a config before anything is built: operators, hooks and paths of the data."""

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmkerv.distributions import importable
from mmkerv.engine.scope import library_of
from mmkerv.errors import ArgumentError, ArgumentTypeError, ConfigError
from mmkerv.models.placement import Where
from mmkerv.models.replacement import own_arguments, registered_convolution
from mmkerv.operator_table import OPERATORS, PLAIN, operator_class, operator_name
from mmkerv.ops.core.arguments import nearest, reject_from_network
from mmkerv.registry import local_name

RENAMED_HOOKS = {
    'KeepWrittenHook': 'DeferredRemovalHook',
    'SoundCheckpointHook': 'FiniteCheckpointHook',
    'DueEvaluationHook': 'PendingEvaluationHook',
    'FrozenOperatorsHook': 'CheckFrozenOperatorsHook',
}


# Parts of a config that mmengine's runner takes together or not at all.
TOGETHER = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
# Those that a command needs, and the name of what it does.
RUNS = {'train': 'training', 'test': 'test'}


def check_operators(node: Any, place: str, scope: str | None = None) -> None:
    """Check the type and arguments of every ``conv_cfg`` in a part of a config, and the ``where`` beside it.

    Args:
        node: that part.
        place: its dotted key.
        scope: ``default_scope`` of the config, in which a type that is not mmkerv's is looked up.

    Raises:
        ConfigError: naming the key, the argument and the rule, of each fault.

    Example:
        >>> check_operators({'backbone': {'conv_cfg': {'type': 'CoCConv', 'association': 3}}}, 'model')
    """
    refuse(operator_faults(node, place, scope))


def refuse(faults: Iterable[str]) -> None:
    """Raise if there are faults.

    Raises:
        ConfigError: with all of them.

    Example:
        >>> refuse([])
    """
    if found := list(faults):
        raise ConfigError('; '.join(found))


def operator_faults(node: Any, place: str, scope: str | None = None) -> Iterator[str]:
    """Yield what :func:`check_operators` refuses, a sentence each.

    Example:
        >>> list(operator_faults({'conv_cfg': {'type': 'CoCConv'}}, 'model'))
        []
    """
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    if isinstance(node.get('where'), dict) and local_name(node.get('type'), ('mmkerv',)):
        yield from where_faults(node['where'], f'{place}.where')
    for key, value in node.items():
        is_conv_cfg = str(key).endswith('conv_cfg') and isinstance(value, dict)
        name = operator_name(value.get('type')) if is_conv_cfg else None
        if name is None:
            if is_conv_cfg:
                yield from _conv_type_faults(value.get('type'), f'{place}.{key}', scope)
            yield from operator_faults(value, f'{place}.{key}', scope)
            continue
        try:
            check_arguments(name, {k: v for k, v in value.items() if k != 'type'})
        except (ArgumentError, ArgumentTypeError) as error:
            yield (
                f'{place}.{key}: {error}. Change the config, or give another value with --cfg-options '
                f'{place}.{key}.ARGUMENT=VALUE'
            )


def _conv_type_faults(kind: Any, place: str, scope: str | None) -> Iterator[str]:
    """Yield a fault for the name of a convolution that nothing registers; mmcv's message would not have the name."""
    # Without mmcv its convolutions are not known.
    if not isinstance(kind, str) or kind in ('Conv2d', *PLAIN) or not importable('mmcv'):
        return
    with DefaultScope.overwrite_default_scope(scope):
        if registered_convolution(kind) is not None:
            return
    name = kind.strip().rpartition('.')[2]
    near = nearest(name, OPERATORS)
    meant = f"; did you mean 'mmkerv.{near}'?" if near else '.'
    yield (
        f'{place}.type: {kind!r} is neither an operator of mmkerv nor a registered convolution{meant} '
        f'mmkerv.list_operators() lists the operators. Change it in the config, or by --cfg-options {place}.type=NAME; '
        'a convolution of your own needs custom_imports=dict(imports=[MODULE], allow_failed_imports=False)'
    )


def where_faults(where: dict, place: str) -> Iterator[str]:
    """Yield what is wrong with a ``where`` of a config: its dotted key, the key or value in it, and the rule.

    Example:
        >>> list(where_faults(dict(stages=(2, 3)), 'model.backbone.where'))
        []
    """
    try:
        Where.of(where)
    except (ArgumentError, ArgumentTypeError) as error:
        yield f'{place}: {error}. Change the config, or give another value with --cfg-options {place}.KEY=VALUE'


def check_arguments(operator: str, options: dict[str, Any]) -> None:
    """Check the arguments of an operator without drawing from the global random numbers.

    Raises:
        ValueError: for a value that the operator does not take.
        TypeError: for an unknown argument.

    Example:
        >>> check_arguments('CoCConv', {'super_bias': True})
    """
    kind = operator_class(operator)
    reject_from_network(operator, options, own_arguments(kind))
    with torch.random.fork_rng(devices=[]):
        # A 1x1 convolution is the smallest layer whose arguments are checked.
        kind(1, 1, 1, **options)


def check_hooks(cfg: Config) -> None:
    """Refuse the hook names of mmkerv's development versions, as dumped configs have them, and a bad ``where``.

    Raises:
        ConfigError: naming the old and the new name, or what is wrong with ``where``, of each hook.

    Example:
        >>> check_hooks(Config(dict(custom_hooks=[dict(type='mmkerv.DeferredRemovalHook')])))
    """
    refuse(hook_faults(cfg))


def hook_faults(cfg: Config) -> Iterator[str]:
    """Yield what :func:`check_hooks` refuses, a sentence each.

    Example:
        >>> list(hook_faults(Config(dict(custom_hooks=[dict(type='mmkerv.DeferredRemovalHook')]))))
        []
    """
    for key, hook in _hooks(cfg):
        kind = str(hook.get('type')) if isinstance(hook, dict) else ''
        name = kind.rpartition('.')[2]
        if kind in (name, f'mmkerv.{name}') and name in RENAMED_HOOKS:
            yield f'hook {kind!r} is now called {RENAMED_HOOKS[name]!r}: change its type in the config'
        is_ours = isinstance(hook, dict) and local_name(hook.get('type'), ('mmkerv',))
        if is_ours and isinstance(hook.get('where'), dict):
            yield from where_faults(hook['where'], f'{key}.where')


def _hooks(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Yield the hooks of a config with their dotted keys."""
    yield from ((f'custom_hooks.{i}', hook) for i, hook in enumerate(cfg.get('custom_hooks') or []))
    yield from ((f'default_hooks.{name}', hook) for name, hook in (cfg.get('default_hooks') or {}).items())


def loop_faults(cfg: Config, *phases: str) -> Iterator[str]:
    """Yield what is missing for the loops of a runner, a sentence each: a loop has all of its three parts, or none.

    Args:
        cfg: config.
        *phases: loops that are needed, ``'train'`` or ``'test'``.

    Example:
        >>> list(loop_faults(Config(dict(val_cfg=None)), 'test'))[1]
        'the config has no test_cfg, which a test needs; write it, or inherit it from a _base_'
    """
    for phase, keys in TOGETHER.items():
        # mmpretrain's configs give the loops of evaluation and test by empty dicts.
        absent = [key for key in keys if cfg.get(key) is None or (phase == 'train' and not cfg[key])]
        if phase in phases:
            for key in absent:
                yield f'the config has no {key}, which a {RUNS[phase]} needs; write it, or inherit it from a _base_'
        elif 0 < len(absent) < len(keys):
            given = ' and '.join(key for key in keys if key not in absent)
            yield (
                f'the config has {given}, but no {" and no ".join(absent)}: they belong together. Write what is '
                'missing, or set the others to None'
            )


def training_phases(cfg: Config) -> tuple[str, ...]:
    """Return the phases whose data a training reads: ``'train'``, and ``'val'`` if it is evaluated.

    Example:
        >>> training_phases(Config(dict(val_cfg=dict()))), training_phases(Config(dict(val_cfg=None)))
        (('train', 'val'), ('train',))
    """
    # mmpretrain's configs give this loop by an empty dict.
    return ('train',) if cfg.get('val_cfg') is None else ('train', 'val')


def check_data(cfg: Config, phase: str) -> None:
    """Check that the folders and files of a phase's data sets exist if they are local, and that classes are names.

    Args:
        cfg: config.
        phase: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ConfigError: naming the phase, the path and the option that changes it; or a string in place of the classes; of
            each data set.

    Example:
        >>> check_data(Config(dict(val_dataloader=None)), 'val')
    """
    refuse(data_faults(cfg, phase))


def data_faults(cfg: Config, *phases: str) -> Iterator[str]:
    """Yield what :func:`check_data` refuses, a sentence each; files in a folder that is missing are left out.

    Args:
        cfg: config.
        *phases: of ``'train'``, ``'val'``, ``'test'``. A folder that several data sets lack is told once.

    Example:
        >>> list(data_faults(Config(dict(val_dataloader=None)), 'val'))
        []
    """
    absent: dict[tuple[str, str], list[str]] = {}
    has_home = library_of(cfg) == 'mmpretrain'
    for phase in phases:
        for place, dataset in datasets(cfg.get(f'{phase}_dataloader'), f'{phase}_dataloader'):
            yield from _class_faults(dataset, place)
            root, annotations = dataset.get('data_root') or '', dataset.get('ann_file') or ''
            if dataset.get('backend_args') or '://' in f'{root}{annotations}':
                continue
            if root and not Path(root).is_dir():
                if _is_downloaded(dataset, cfg):
                    continue
                absent.setdefault(('data_root', root), []).append(place)
            elif isinstance(annotations, str) and annotations:
                # mmpretrain alone takes the home folder for ~.
                path = Path(root, Path(annotations).expanduser() if has_home else annotations)
                # The annotations of DOTA are a folder with a text for each image.
                if not path.is_file() and not any(path.glob('*.txt')):
                    absent.setdefault(('ann_file', str(path)), []).append(place)
    for (key, path), places in absent.items():
        yield _absent(key, path, places)


def _is_downloaded(dataset: dict, cfg: Config) -> bool:
    """Return whether the class of a data set would download it, as mmpretrain's CIFAR and MNIST do by default."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(library_of(cfg)) as registry:
            kind = registry.get(kind)
    parameter = inspect.signature(kind).parameters.get('download') if isinstance(kind, type) else None
    return parameter is not None and bool(dataset.get('download', parameter.default))


def _absent(key: str, path: str, places: list[str]) -> str:
    """Return the message on data that is not there, from the key and the data sets that have it."""
    lacks = ' or has no texts' if Path(path).is_dir() else ''
    keys = [f'{place}.{key}' for place in places]
    message = (
        f'{", ".join(keys)}: {path!r} does not exist{lacks} (seen from {Path.cwd()}). Put the data there, or say where '
        f'it is with --cfg-options data_root=DIR (or {"=... ".join(keys)}=...)'
    )
    if key == 'ann_file' and Path(path).name == 'aug.txt':
        # The list of VOC 2012's additional annotations, which upstream's converter writes.
        options = (
            f'{place}.ann_file=ImageSets/Segmentation/train.txt {place}.data_prefix.seg_map_path=SegmentationClass'
            for place in places
        )
        message += (
            '. To train without the additional annotations of VOC 2012, use configs/fcn_r50d8_voc12.py or the base '
            f'configs/_base_/datasets/voc12.py, or add --cfg-options {" ".join(options)}'
        )
    return message


def _class_faults(dataset: dict, place: str) -> Iterator[str]:
    """Yield a fault for a string as classes, unless it is a file of their names: ``('circle')`` is no tuple."""
    for key, classes in {**(dataset.get('metainfo') or {}), 'classes=': dataset.get('classes')}.items():
        if key.lower().rstrip('=') == 'classes' and isinstance(classes, str) and not Path(classes).is_file():
            argument = 'classes' if key.endswith('=') else f'metainfo.{key}'
            yield (
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
