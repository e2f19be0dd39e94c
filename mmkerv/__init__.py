"""New convolutions for every mmdetection, mmsegmentation and mmpretrain model, by one line of config.

Importing it registers the operators where mmengine is installed; ``mmkerv.ops`` needs torch alone.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mmkerv.distributions import warn_untested
from mmkerv.version import __version__

if TYPE_CHECKING:
    from mmkerv.models.placement import convert

__all__ = ['__version__', 'convert']

warn_untested()

if find_spec('mmengine') is not None:
    try:
        import mmkerv.registry
    except ImportError as error:
        # The operators and the doctor must work where mmengine does not.
        warnings.warn(
            f'mmkerv registered nothing: mmengine cannot be imported ({error}); see python -m mmkerv.env', stacklevel=2
        )


def __getattr__(name: str) -> Any:
    # Imported on first use: these need torch, which takes seconds.
    if name == 'convert':
        return import_module('mmkerv.models.placement').convert
    if name in ('ops', 'models', 'engine'):
        return import_module(f'mmkerv.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
