"""Scope ``mmkerv`` of OpenMMLab's registries, and the lookups mmengine lacks.

Three ways lead to an operator: ``type='mmkerv.CoCConv'`` needs no import; ``type='CoCConv'`` works in every scope once
mmkerv is imported, because the operators are also registered in mmengine's root; the class itself works anywhere.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module, metadata
from importlib.util import find_spec
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
from mmkerv.distributions import importable
from mmkerv.operator_table import OPERATORS, PLAIN, dotted_name, operator_class

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


def import_mmcv() -> None:
    """Import what registers mmcv's convolutions, if it is installed.

    Example:
        >>> import_mmcv()
    """
    if importable('mmcv'):
        import_module('mmcv.cnn')
        # That of the compiled ones, such as DCN, may be missing.
        with suppress(ImportError):
            import_module('mmcv.ops')


def taken_by(name: str) -> str | None:
    """Return the full name of what mmengine's root, or a library that is imported, has registered under a name.

    Example:
        >>> taken_by('MyConv')
    """
    import_mmcv()
    for registry in (MMENGINE_MODELS, *MMENGINE_MODELS.children.values()):
        if found := registry.module_dict.get(name):
            return dotted_name(found)
    return None


def operator_builder(name: str) -> Callable[..., Any]:
    """Return a function that builds an operator, and imports it and torch only then.

    mmengine searches its root without importing anything, so the names must be there as soon as mmkerv is imported.

    Args:
        name: registered name.

    Example:
        >>> type(operator_builder('CoCConv')(3, 8, 3)).__name__
        'CoCConv2d'
    """

    def build(*args: Any, **kwargs: Any) -> Any:
        return operator_class(name)(*args, **kwargs)

    build.__name__ = build.__qualname__ = name
    # mmengine names it where something else is registered under the name.
    build.__module__ = {**OPERATORS, **PLAIN}[name]
    build.__doc__ = f'Build the operator {name}.'
    return build


def register(name: str) -> None:
    """Register an operator of the table in scope ``mmkerv`` and in mmengine's root.

    Args:
        name: registered name.

    Example:
        >>> unregister('CoCConv'); register('CoCConv'); 'CoCConv' in MODELS
        True
    """
    build = operator_builder(name)
    for registry in (MODELS, MMENGINE_MODELS):
        registry.register_module(name=name, module=build)


def unregister(name: str) -> None:
    """Undo :func:`register`.

    Example:
        >>> unregister('CoCConv'); 'CoCConv' in MODELS
        False
        >>> register('CoCConv')
    """
    for registry in (MODELS, MMENGINE_MODELS):
        # mmengine has no function for it.
        registry._module_dict.pop(name, None)


# With the operators of users that were registered before mmengine was imported.
for _name in (*OPERATORS, *PLAIN):
    register(_name)


def local_name(kind: Any, packages: tuple[str, ...]) -> str | None:
    """Return the last part of a config's ``type`` if it belongs to one of ``packages``, else ``None``.

    Args:
        kind: the ``type`` of a config: a dotted name, a class, or a ``functools.partial`` of one.
        packages: top-level packages or scopes; ``''`` is a name without a scope.

    Example:
        >>> local_name('mmkerv.ResNet', ('mmkerv',)), local_name('mmdet.ResNet', ('mmkerv',))
        ('ResNet', None)
    """
    path = dotted_name(kind)
    package, _, name = path.rpartition('.')
    return name if package.partition('.')[0] in packages else None


def allow_package_configs() -> None:
    """Make ``_base_ = 'mmkerv::...'`` and ``'mmseg::...'`` resolve; find ``'mmdet::...'`` at once.

    mmengine has no entry for mmkerv, and one for mmsegmentation that does not fit ``onedl-mmsegmentation``. Its own
    lookup would refuse configs at the top of a package's ``configs``, as ours are, and mark their content with scope
    ``mmkerv``, in which the transforms and models of mmdetection, mmsegmentation and mmpretrain are not found.

    For every config of a library, mmengine first reads all of the library's metafiles, about a second, to look for a
    name that they never have (without ``.py``), and then takes the file in its folder ``configs``, which is taken here
    at once.

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
        library, _, path = cfg_path.partition('::')
        if library == 'mmkerv' and path:
            return str(package_config(path)), None
        if library in MODULE2PACKAGE and path and importable(library):
            file = library_configs(library) / path
            if file.is_file():
                return str(file), library
        return upstream(cfg_path, filename)

    get_cfg_path.knows_mmkerv = True
    Config._get_cfg_path = staticmethod(get_cfg_path)


def library_configs(library: str) -> Path:
    """Return the folder of the configs of an installed library; it is not imported.

    Example:
        >>> library_configs('mmdet').parts[-3:]
        ('mmdet', '.mim', 'configs')
    """
    return Path(find_spec(library).submodule_search_locations[0], '.mim', 'configs')


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
