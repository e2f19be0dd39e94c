"""Complete a config by what the tools add to it, and build its runner."""

from argparse import Namespace
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.runner import Runner

from mmkerv.config_files import config_name
from mmkerv.engine.checkpoint.pretrained import missing_files
from mmkerv.engine.config.check import data_faults, hook_faults, loaders, operator_faults, refuse
from mmkerv.engine.config.check_model import model_faults
from mmkerv.engine.config.write import by_name
from mmkerv.engine.console.short_log import runner_class, with_short_log
from mmkerv.engine.scope import library_of
from mmkerv.errors import ConfigError
from mmkerv.registry import local_name
from mmkerv.utils import log

CPU_AMP = 'mmkerv.CpuAmpOptimWrapper'
# Those of mmengine's AmpOptimWrapper that an OptimWrapper does not take.
AMP_ARGUMENTS = ('loss_scale', 'dtype', 'use_fsdp')
OPERATOR_RULES = 'mmkerv.OperatorRulesConstructor'
# Constructors that apply the operators' rules.
WITH_OPERATOR_RULES = ('OperatorRulesConstructor', 'LayerDecayConstructor', 'ConvMuonConstructor')
HOOKS = (
    'mmkerv.FrozenKernelsHook',
    'mmkerv.CheckpointLayoutHook',
    'mmkerv.CheckpointMatchHook',
    'mmkerv.OperatorReportHook',
)
# Hooks of equal priority run in this order: PendingEvaluationHook must be the last of them.
TRAINING_HOOKS = (
    'mmkerv.LabelRangeHook',
    'mmkerv.CheckFrozenOperatorsHook',
    'mmkerv.ExactResumeHook',
    'mmkerv.FiniteCheckpointHook',
    'mmkerv.DeferredRemovalHook',
    'mmkerv.StopSignalHook',
    'mmkerv.PendingEvaluationHook',
)


def prepare(cfg: Config, args: Namespace, phases: tuple[str, ...]) -> Config:
    """Complete a config by the working directory, launcher and hooks of a run, and check that its data is there.

    Only the config changes; :func:`mmkerv.engine.apply_patches` changes the process.

    Args:
        cfg: config, changed in place.
        args: flags ``config``, ``work_dir``, ``launcher``.
        phases: data that must be there, of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        ConfigError: with everything that :func:`config_faults` finds.

    Example:
        >>> prepare(load_config(args.config), args, ('test',))  # doctest: +SKIP
    """
    refuse(config_faults(cfg, phases, bool(getattr(args, 'operator', None))))
    cfg.launcher = args.launcher
    set_work_dir(cfg, args)
    present = {local_name(hook.get('type'), ('mmkerv',)) for hook in cfg.get('custom_hooks') or []}
    added = [{'type': hook} for hook in HOOKS]
    if 'train' in phases:
        added += [{'type': hook} for hook in TRAINING_HOOKS]
        add_operator_rules(cfg)
    cfg.custom_hooks = [
        *(cfg.get('custom_hooks') or []),
        *(h for h in added if local_name(h['type'], ('mmkerv',)) not in present),
    ]
    # The runner writes the config to its working directory.
    return by_name(cfg)


def config_faults(cfg: Config, phases: tuple[str, ...], is_placed: bool = False) -> list[str]:
    """Return what is wrong with a config, as far as it can be told before anything is built or read, a sentence each.

    Operators and their arguments, types and keys of the network, hooks, paths of the data, and for training the
    checkpoints that it starts from.

    Args:
        cfg: config.
        phases: data that must be there, of ``'train'``, ``'val'``, ``'test'``.
        is_placed: whether ``--operator`` has put ``mmkerv.Converted`` around the model; keys are then named as
            ``--cfg-options``, which is applied before it, takes them.

    Example:
        >>> config_faults(load_config(args.config), ('train', 'val'))  # doctest: +SKIP
        []
    """
    faults = [*operator_faults(cfg.get('model'), 'model', library_of(cfg)), *model_faults(cfg), *hook_faults(cfg)]
    faults = [as_typed(fault, is_placed) for fault in faults]
    faults += data_faults(cfg, *phases)
    if 'train' in phases:
        faults += [as_typed(fault, is_placed) for fault in missing_files(cfg.get('model'), 'model')]
        faults += amp_faults(cfg)
    return faults


def amp_faults(cfg: Config) -> list[str]:
    """Return what is wrong with mixed precision on this machine: mmengine's wrapper needs a GPU, and asserts one.

    Example:
        >>> amp_faults(Config(dict(optim_wrapper=dict(type='OptimWrapper'))))
        []
    """
    wrapper = cfg.get('optim_wrapper')
    kind = wrapper.get('type') if isinstance(wrapper, dict) else None
    if local_name(kind, ('', 'mmengine')) != 'AmpOptimWrapper' or get_device() != 'cpu':
        return []
    return [
        "optim_wrapper.type='AmpOptimWrapper' needs a GPU, and there is none here: add --amp, which trains in bfloat16 "
        'on the CPU, or use a machine with a GPU'
    ]


def as_typed(fault: str, is_placed: bool) -> str:
    """Return a fault with the keys that ``--cfg-options`` takes.

    Args:
        fault: sentence with dotted keys.
        is_placed: as in :func:`config_faults`.

    Example:
        >>> as_typed("model.model.head: no such key", True)
        'model.head: no such key'
    """
    return fault.replace('model.model.', 'model.') if is_placed else fault


def add_operator_rules(cfg: Config) -> None:
    """Put :class:`mmkerv.engine.OperatorRulesConstructor` around the optimizer constructor of the config.

    Example:
        >>> cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD'), constructor='MyConstructor')))
        >>> add_operator_rules(cfg)
        >>> cfg.optim_wrapper.constructor, cfg.optim_wrapper.paramwise_cfg
        ('mmkerv.OperatorRulesConstructor', {'constructor': 'MyConstructor'})
    """
    wrapper = cfg.get('optim_wrapper')
    # Without either key, the optimizer wrappers are built already or by a constructor of the runner's own.
    if not isinstance(wrapper, dict) or not ('constructor' in wrapper or isinstance(wrapper.get('optimizer'), dict)):
        return
    inner = wrapper.get('constructor')
    if local_name(inner, ('mmkerv',)) in WITH_OPERATOR_RULES:
        return
    rules = wrapper.get('paramwise_cfg')
    if inner is not None and (rules is None or isinstance(rules, dict)):
        wrapper.paramwise_cfg = {**(rules or {}), 'constructor': inner}
    wrapper.constructor = OPERATOR_RULES


def set_work_dir(cfg: Config, args: Namespace) -> None:
    """Set where a run writes: by the flag, the config, or ``work_dirs/NAME_OF_CONFIG``.

    Example:
        >>> cfg = Config({}); set_work_dir(cfg, Namespace(config='configs/retinanet_r50.py', work_dir=None))
        >>> cfg.work_dir
        'work_dirs/retinanet_r50'
    """
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', config_name(args.config)))


def set_test_dir(cfg: Config, args: Namespace) -> None:
    """Set where a test writes: by the flag, or into the folder ``test`` of the training's work folder.

    Args:
        cfg: config, changed in place.
        args: flags ``config``, ``work_dir``, and ``work_folder`` for the work folder of a training that was given in
            place of the config.

    Example:
        >>> cfg, args = Config({}), Namespace(config='configs/retinanet_r50.py', work_dir=None, work_folder=None)
        >>> set_test_dir(cfg, args); args.work_dir
        'work_dirs/retinanet_r50/test'
    """
    if args.work_dir is None:
        if args.work_folder is not None:
            cfg.work_dir = args.work_folder
        set_work_dir(cfg, args)
        # In the folder itself, the config of the test would replace that of the training.
        args.work_dir = str(Path(cfg.work_dir, 'test'))
    cfg.work_dir = args.work_dir


def build_runner(cfg: Config, short_log: bool = False) -> Runner:
    """Build the runner the config asks for.

    Args:
        cfg: config.
        short_log: whether the terminal gets what a person reads, with a bar on the progress; the log file has every
            line, as mmengine writes it.

    Example:
        >>> build_runner(load_config('configs/retinanet_r50.py'))  # doctest: +SKIP
    """
    kind = runner_class(cfg)
    return (with_short_log(kind) if short_log else kind).from_cfg(cfg)


def set_loader_defaults(cfg: Config, pin_memory: bool = True, persistent_workers: bool = True) -> None:
    """Fill in what mmpretrain's configs leave to mmpretrain's own tools.

    Example:
        >>> cfg = Config(dict(default_scope='mmpretrain', test_dataloader=dict(num_workers=0)))
        >>> set_loader_defaults(cfg)
        >>> cfg.test_dataloader.collate_fn.type
        'default_collate'
    """
    classification = library_of(cfg) == 'mmpretrain'
    for _, loader in (part for phase in ('train', 'val', 'test') for part in loaders(cfg, phase)):
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

    Without a GPU that also goes for a config whose wrapper is mmengine's for GPUs.

    Raises:
        ConfigError: if the config's optimizer wrapper has no mixed-precision form.

    Example:
        >>> cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper'))); use_amp(cfg)
        >>> cfg.optim_wrapper.type.removeprefix('mmkerv.Cpu')
        'AmpOptimWrapper'
    """
    if not cfg.get('optim_wrapper'):
        # The missing part is told with the other parts of the loop.
        return
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    name = local_name(wrapper, ('', 'mmengine', 'mmkerv'))
    if not amp_faults(cfg) and name in ('AmpOptimWrapper', local_name(CPU_AMP, ('mmkerv',))):
        log('mmkerv: mixed precision is already on in the config')
        return
    if name not in ('OptimWrapper', 'AmpOptimWrapper'):
        wrapper = wrapper if isinstance(wrapper, str) else getattr(wrapper, '__name__', wrapper)
        raise ConfigError(
            f"--amp needs optim_wrapper.type='OptimWrapper', got {wrapper!r}; set the precision in the config"
        )
    if get_device() == 'cpu':
        log('mmkerv: no GPU: mixed precision is bfloat16 on the CPU')
        cfg.optim_wrapper.type = CPU_AMP
        for key in AMP_ARGUMENTS:
            cfg.optim_wrapper.pop(key, None)
        return
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
