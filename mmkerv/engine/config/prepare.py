"""From a config file and a tool's flags to a runner, for detection, segmentation and classification alike."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkerv import ops
from mmkerv.engine.checkpoint.atomic_write import install_atomic_writes
from mmkerv.engine.checkpoint.pretrained import check_pretrained_files, install_pretrained_report
from mmkerv.engine.checkpoint.safe_load import install_safe_loading
from mmkerv.engine.config.read import install_safe_data_files, read_config
from mmkerv.engine.data_checks.upstream_errors import install_data_errors
from mmkerv.errors import ArgumentError, ArgumentTypeError, ConfigError
from mmkerv.registry import operator_name
from mmkerv.utils import log

CPU_AMP = 'mmkerv.CpuAmpOptimWrapper'
HOOKS = ('mmkerv.FrozenKernelsHook', 'mmkerv.CheckpointMatchHook')
# In this order where their priorities are equal: an evaluation that is due comes last.
TRAINING_HOOKS = (
    'mmkerv.LabelRangeHook',
    'mmkerv.CheckFrozenOperatorsHook',
    'mmkerv.ExactResumeHook',
    'mmkerv.FiniteCheckpointHook',
    'mmkerv.DeferredRemovalHook',
    'mmkerv.StopSignalHook',
    'mmkerv.PendingEvaluationHook',
)


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config and apply ``--cfg-options``.

    A new ``data_root`` also replaces the old one at the start of every path of the data sets and evaluators, because a
    config's variables have done their work when options are applied.

    Args:
        path: config file.
        options: dotted keys and their values.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: if it cannot be read, an option does not fit it, or an operator does not take its arguments.

    Example:
        >>> load_config('configs/retinanet_r50.py').model.type  # doctest: +SKIP
        'RetinaNet'
    """
    cfg = read_config(path)
    options = options or {}
    old = cfg.get('data_root')
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError) as error:
        given, reason = ' '.join(f'{k}={v}' for k, v in options.items()), str(error.args[0]).rstrip('.')
        raise ConfigError(
            f'--cfg-options {given} does not fit {path!r}: {reason}. Change the keys, or write the change into a '
            'config that inherits from this one'
        ) from error
    check_operators(cfg.get('model'), 'model')
    if old and 'data_root' in options:
        new = str(options['data_root']).rstrip('/') + '/'
        for key in list(cfg):
            if key.endswith(('_dataloader', '_evaluator', '_pipeline')):
                cfg[key] = _replace_root(cfg[key], old.rstrip('/'), new.rstrip('/'))
    return cfg


def prepare(cfg: Config, args: Namespace, phases: tuple[str, ...], strict: bool) -> Config:
    """Apply what both tools have in common: folder, launcher, hooks, safe reading, whole writing; check the data.

    Args:
        cfg: config, changed in place.
        args: flags ``config``, ``work_dir``, ``launcher``, ``trust_checkpoint``.
        phases: data that must be there, of ``'train'``, ``'val'``, ``'test'``.
        strict: whether a checkpoint of another network is refused.

    Raises:
        ConfigError: if the data is not where the config says.
        FileNotFoundError: if a checkpoint that training starts from is not.

    Example:
        >>> prepare(load_config(args.config), args, ('test',), strict=True)  # doctest: +SKIP
    """
    cfg.launcher = args.launcher
    set_work_dir(cfg, args)
    present = {hook.get('type') for hook in cfg.get('custom_hooks') or []}
    added = [{'type': HOOKS[0]}, {'type': HOOKS[1], 'strict': strict}]
    if 'train' in phases:
        added += [{'type': hook} for hook in TRAINING_HOOKS]
        check_pretrained_files(cfg.get('model'), 'model')
        install_pretrained_report()
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *(h for h in added if h['type'] not in present)]
    install_atomic_writes()
    install_safe_loading(args.trust_checkpoint)
    install_safe_data_files(args.trust_checkpoint)
    install_data_errors(cfg.get('default_scope'))
    for phase in phases:
        check_data(cfg, phase)
    return cfg


def set_work_dir(cfg: Config, args: Namespace) -> None:
    """Say where a run writes: the flag, the config, or ``work_dirs/NAME_OF_CONFIG``.

    Example:
        >>> cfg = Config({}); set_work_dir(cfg, Namespace(config='configs/retinanet_r50.py', work_dir=None))
        >>> cfg.work_dir
        'work_dirs/retinanet_r50'
    """
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))


def build_runner(cfg: Config) -> Runner:
    """Build the runner the config asks for.

    Example:
        >>> build_runner(load_config('configs/retinanet_r50.py'))  # doctest: +SKIP
    """
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def check_data(cfg: Config, phase: str) -> None:
    """Check that the folders and annotation files of a phase's data sets exist, where they are local.

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


def check_operators(node: Any, place: str) -> None:
    """Check the arguments of every operator that a part of a config names, before anything is built.

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
            # A 1x1 convolution is the smallest that has its arguments checked.
            getattr(ops, name)(1, 1, 1, **{k: v for k, v in value.items() if k != 'type'})
        except (ArgumentError, ArgumentTypeError) as error:
            raise ConfigError(
                f'{place}.{key}: {error}. Change the config, or give another value with --cfg-options '
                f'{place}.{key}.ARGUMENT=VALUE'
            ) from error


def set_loader_defaults(cfg: Config, pin_memory: bool = True, persistent_workers: bool = True) -> None:
    """Fill in what mmpretrain's configs leave to mmpretrain's own tools.

    Example:
        >>> cfg = Config(dict(default_scope='mmpretrain', test_dataloader=dict(num_workers=0)))
        >>> set_loader_defaults(cfg)
        >>> cfg.test_dataloader.collate_fn.type
        'default_collate'
    """
    classification = cfg.get('default_scope') == 'mmpretrain'
    for phase in ('train', 'val', 'test'):
        loader = cfg.get(f'{phase}_dataloader')
        if loader is None:
            continue
        if classification:
            loader.setdefault('pin_memory', True)
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
        if not pin_memory:
            loader.pin_memory = False
        if not persistent_workers:
            loader.persistent_workers = False


def use_amp(cfg: Config) -> None:
    """Train in automatic mixed precision: on a GPU with a dynamic loss scale, without one in bfloat16.

    Raises:
        ConfigError: if the config's optimizer wrapper has no mixed-precision form.

    Example:
        >>> cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper'))); use_amp(cfg)
        >>> cfg.optim_wrapper.type.removeprefix('mmkerv.Cpu')
        'AmpOptimWrapper'
    """
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper in ('AmpOptimWrapper', CPU_AMP):
        log('mmkerv: mixed precision is already on in the config')
        return
    if wrapper != 'OptimWrapper':
        raise ConfigError(
            f"--amp needs optim_wrapper.type='OptimWrapper', got {wrapper!r}; set the precision in the config"
        )
    if get_device() == 'cpu':
        log('mmkerv: no GPU: mixed precision is bfloat16 on the CPU')
        cfg.optim_wrapper.type = CPU_AMP
        return
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


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


def _replace_root(node: Any, old: str, new: str) -> Any:
    if isinstance(node, str):
        return new + node[len(old) :] if node == old or node.startswith(f'{old}/') else node
    if isinstance(node, dict):
        for key in node:
            node[key] = _replace_root(node[key], old, new)
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(_replace_root(item, old, new) for item in node)
    return node
