"""New convolutions for every mmdetection, mmsegmentation and mmpretrain model, with one line of config.

Importing it changes mmengine in three ways and nothing else, as soon as mmengine is imported too:

- The operators are registered in scope ``mmkerv`` and in mmengine's root registry ``MODELS``, and scope ``mmkerv`` is
  added below the root registries of models, hooks, optimizers, their wrappers and constructors, initialisers and
  transforms.
- ``mmengine.config.utils.MODULE2PACKAGE`` gets an entry for ``mmkerv``, and its entry for ``mmseg`` is changed to
  ``mmseg`` where mmsegmentation is installed as ``onedl-mmsegmentation``.
- ``mmengine.config.Config._get_cfg_path`` resolves ``mmkerv::`` paths, and those of the other libraries without reading
  their metafiles.

Until mmengine is imported, a finder of :mod:`mmkerv.import_hook` stands in ``sys.meta_path``, so that the command
``mmkerv`` answers ``-h`` without it. The import warns of versions that are not tested. ``mmkerv.ops`` needs only torch.
Changes that a training run needs beyond these are in :mod:`mmkerv.engine.config.patches`.
"""

import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmkerv.distributions import importable, warn_untested
from mmkerv.import_hook import after_import
from mmkerv.version import __version__

if TYPE_CHECKING:
    from mmkerv.config_files import list_configs
    from mmkerv.deploy.weights import list_weights, load
    from mmkerv.models.adapters import add_orthogonal_adapters
    from mmkerv.models.placement import convert
    from mmkerv.models.sharing import share_kernels, share_parameters
    from mmkerv.ops.description import describe, list_kernels, list_operators
    from mmkerv.ops.registration import register_operator, unregister_operator

__all__ = [
    '__version__',
    'add_orthogonal_adapters',
    'convert',
    'describe',
    'list_configs',
    'list_kernels',
    'list_operators',
    'list_weights',
    'load',
    'register_operator',
    'share_kernels',
    'share_parameters',
    'unregister_operator',
]

# Name -> module that has it.
VERBS = {
    'add_orthogonal_adapters': 'models.adapters',
    'convert': 'models.placement',
    'describe': 'ops.description',
    'list_configs': 'config_files',
    'list_kernels': 'ops.description',
    'list_operators': 'ops.description',
    'list_weights': 'deploy.weights',
    'load': 'deploy.weights',
    'register_operator': 'ops.registration',
    'share_kernels': 'models.sharing',
    'share_parameters': 'models.sharing',
    'unregister_operator': 'ops.registration',
}

SUBPACKAGES = (
    'analysis',
    'datasets',
    'deploy',
    'engine',
    'env',
    'errors',
    'models',
    'ops',
    'registry',
    'visualization',
)

warn_untested()


def _register() -> None:
    try:
        import_module('mmkerv.registry')
    except ImportError as error:
        # The operators and `python -m mmkerv.env` must work where mmengine does not.
        warnings.warn(
            f'mmkerv registered nothing: mmengine cannot be imported ({error}); see python -m mmkerv.env', stacklevel=2
        )


if importable('mmengine'):
    after_import('mmengine', _register)


def __getattr__(name: str) -> Any:
    # Imported on first use: most of these import torch, which takes seconds.
    if name in VERBS:
        return getattr(import_module(f'mmkerv.{VERBS[name]}'), name)
    if name in SUBPACKAGES:
        return import_module(f'mmkerv.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}{_meant(name)}')


def _meant(name: str) -> str:
    """Return where the operator is that was probably meant; Python itself suggests among the names of this module."""
    # The registry lists the operators, and no attribute whose absence is normal is looked up by a name like theirs.
    if not name.lower().rstrip('d123').endswith('conv') or 'mmkerv.registry' not in sys.modules:
        return ''
    from difflib import get_close_matches

    from mmkerv.operator_table import OPERATORS, is_own

    # Those of users are not in this package.
    near = get_close_matches(name, [known for known in OPERATORS if not is_own(known)], n=1)
    return f'; did you mean mmkerv.ops.{near[0]}?' if near else '; mmkerv.list_operators() lists the operators'


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *SUBPACKAGES})
