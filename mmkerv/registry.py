"""Scope ``mmkerv`` of OpenMMLab's registries, and the lookups mmengine lacks.

Three ways lead to an operator: ``type='mmkerv.CoCConv'`` needs no import; ``type='CoCConv'`` works in every scope once
mmkerv is imported, because the operators are also registered in mmengine's root; the class itself works anywhere.
"""

import functools
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

from mmkerv.config_files import FOLDERS

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmkerv', locations=['mmkerv.models'])
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='mmkerv', locations=['mmkerv.engine', 'mmkerv.visualization.hook']
)
OPTIMIZERS = Registry(
    'optimizer', parent=MMENGINE_OPTIMIZERS, scope='mmkerv', locations=['mmkerv.engine.optim.conv_muon']
)
OPTIM_WRAPPERS = Registry(
    'optim wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmkerv', locations=['mmkerv.engine.optim.cpu_amp']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optim wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmkerv',
    locations=[
        'mmkerv.engine.optim.operator_rules',
        'mmkerv.engine.optim.layer_decay',
        'mmkerv.engine.optim.conv_muon_constructor',
    ],
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmkerv',
    locations=['mmkerv.datasets.crops', 'mmkerv.datasets.sequences'],
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=MMENGINE_WEIGHT_INITIALIZERS,
    scope='mmkerv',
    locations=['mmkerv.engine.initialisers'],
)

# Registered name of each operator, and the module that defines it. The only such list.
OPERATORS = {
    'CKConv': 'mmkerv.ops.ckconv',
    'CKConv1d': 'mmkerv.ops.ckconv',
    'CoCConv': 'mmkerv.ops.coc',
    'CondConv': 'mmkerv.ops.condconv',
    'DCLSConv': 'mmkerv.ops.dcls',
    'DepthwiseSeparableConv': 'mmkerv.ops.separable',
    'FDConv': 'mmkerv.ops.fdconv',
    'FlexConv': 'mmkerv.ops.ckconv',
    'InceptionDWConv': 'mmkerv.ops.inception_dw',
    'KANConv': 'mmkerv.ops.kan',
    'KervConv': 'mmkerv.ops.kerv',
    'KervConv1d': 'mmkerv.ops.kerv',
    'KervConv3d': 'mmkerv.ops.kerv',
    'LightweightConv1d': 'mmkerv.ops.lightweight',
    'LowRankConv': 'mmkerv.ops.lowrank',
    'MixConv': 'mmkerv.ops.mixconv',
    'PConv': 'mmkerv.ops.pconv',
    'RecConv': 'mmkerv.ops.recconv',
    'ReparamConv': 'mmkerv.ops.reparam',
    'SMPConv': 'mmkerv.ops.smpconv',
    'ShiftwiseConv': 'mmkerv.ops.shiftwise',
    'SpatiallySeparableConv': 'mmkerv.ops.separable',
    'StackedConv': 'mmkerv.ops.separable',
    'WeightedConv': 'mmkerv.ops.weighted',
}
# The plain form of a folded operator, in deploy configs.
PLAIN = {'FoldedConv': 'mmkerv.ops.folded_conv'}


def operator_builder(name: str, module: str) -> Callable[..., Any]:
    """Return a function that builds an operator of :mod:`mmkerv.ops` and imports torch only then.

    mmengine searches its root without importing anything, so the names must be there as soon as mmkerv is imported.

    Args:
        name: registered name.
        module: where it is defined.

    Example:
        >>> type(operator_builder('CoCConv', 'mmkerv.ops.coc')(3, 8, 3)).__name__
        'CoCConv2d'
    """

    def build(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f'Build :class:`mmkerv.ops.{name}`.'
    return build


for _name, _module in {**OPERATORS, **PLAIN}.items():
    _build = operator_builder(_name, _module)
    for _registry in (MODELS, MMENGINE_MODELS):
        _registry.register_module(name=_name, module=_build)


def operator_name(kind: Any) -> str | None:
    """Return the registered name of the mmkerv operator that a config's ``type`` refers to, or ``None``.

    Args:
        kind: the ``type`` of a config: a name, a class, or a ``functools.partial`` of one.

    Example:
        >>> operator_name('mmkerv.CoCConv'), operator_name('ConvWS')
        ('CoCConv', None)
    """
    name = (local_name(kind, ('', 'mmkerv')) or '').removesuffix('2d')
    return name if name in OPERATORS else None


def local_name(kind: Any, packages: tuple[str, ...]) -> str | None:
    """Return the last part of a config's ``type`` if it belongs to one of ``packages``, else ``None``.

    Args:
        kind: the ``type`` of a config: a dotted name, a class, or a ``functools.partial`` of one.
        packages: top-level packages or scopes; ``''`` is a name without a scope.

    Example:
        >>> local_name('mmkerv.ResNet', ('mmkerv',)), local_name('mmdet.ResNet', ('mmkerv',))
        ('ResNet', None)
    """
    while isinstance(kind, functools.partial):
        kind = kind.func
    path = kind if isinstance(kind, str) else f'{getattr(kind, "__module__", "")}.{getattr(kind, "__name__", "")}'
    package, _, name = path.rpartition('.')
    return name if package.partition('.')[0] in packages else None


def allow_package_configs() -> None:
    """Make ``_base_ = 'mmkerv::...'`` and ``'mmseg::...'`` resolve.

    mmengine has no entry for mmkerv, and one for mmsegmentation that does not fit ``onedl-mmsegmentation``. Its own
    lookup would refuse configs at the top of a package's ``configs``, as ours are, and mark their content with scope
    ``mmkerv``, in which the transforms and models of mmdetection, mmsegmentation and mmpretrain are not found.

    Example:
        >>> allow_package_configs()
        >>> MODULE2PACKAGE['mmkerv']
        'mmkerv'
    """
    MODULE2PACKAGE['mmkerv'] = 'mmkerv'
    try:
        metadata.distribution(MODULE2PACKAGE['mmseg'])
    except metadata.PackageNotFoundError:
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    upstream = Config._get_cfg_path
    if getattr(upstream, 'knows_mmkerv', False):
        return

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, _, path = cfg_path.partition('::')
        return (str(package_config(path)), None) if package == 'mmkerv' and path else upstream(cfg_path, filename)

    get_cfg_path.knows_mmkerv = True
    Config._get_cfg_path = staticmethod(get_cfg_path)


def package_config(path: str) -> Path:
    """Return the file of a config, from the installed package or from the checkout mmkerv is imported from.

    Args:
        path: relative to ``configs``.

    Raises:
        FileNotFoundError: if there is none.

    Example:
        >>> package_config('retinanet_r50.py').name
        'retinanet_r50.py'
    """
    for folder in FOLDERS:
        if (folder / path).is_file():
            return folder / path
    raise FileNotFoundError(
        f'mmkerv has no config {path!r} in {FOLDERS[0]}; mmkerv.list_configs() and `mmkerv configs` list them'
    )


allow_package_configs()
