"""Scope ``mmkerv`` of OpenMMLab's registries, and the lookups mmengine lacks.

Three ways lead to an operator: ``type='mmkerv.CoCConv'`` needs no import; ``type='CoCConv'`` works in every scope once
mmkerv is imported, because the operators also stand in mmengine's root; the class itself works anywhere.
"""

from importlib import metadata

from mmengine.config import config as mmengine_config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

from mmkerv import ops

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmkerv', locations=['mmkerv.models'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmkerv', locations=['mmkerv.engine'])

OPERATORS = ('CoCConv',)

for _name in OPERATORS:
    for _registry in (MODELS, MMENGINE_MODELS):
        _registry.register_module(name=_name, module=getattr(ops, _name))


def allow_package_configs() -> None:
    """Make ``_base_ = 'mmkerv::...'`` and ``'mmseg::...'`` resolve.

    mmengine knows neither mmkerv nor that mmsegmentation may be installed as ``onedl-mmsegmentation``, and it refuses a
    config that lies at the top of a package's ``configs``, as ours do.

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
    upstream = mmengine_config._get_package_and_cfg_path
    if getattr(upstream, 'knows_mmkerv', False):
        return

    def package_and_path(cfg_path: str) -> tuple[str, str]:
        package, _, path = cfg_path.partition('::')
        return (package, path) if package == 'mmkerv' and path else upstream(cfg_path)

    package_and_path.knows_mmkerv = True
    mmengine_config._get_package_and_cfg_path = package_and_path


allow_package_configs()
