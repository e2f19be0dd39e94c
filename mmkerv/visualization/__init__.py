"""Pictures of operators, of what they respond to and of what networks see. Needs matplotlib."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmkerv.errors import InstallationError

# Where each name lives: a picture of kernels needs neither grad-cam nor a model's library.
_PLACES = {
    'draw_explained': 'class_activation',
    'draw_feature_map': 'feature_maps',
    'draw_receptive_fields': 'receptive_field',
    'explain_image': 'class_activation',
    'kernel_arrays': 'kernel_figures',
    'kernel_figure': 'kernel_figures',
    'response_arrays': 'response',
    'response_figure': 'response',
    'spectrum_arrays': 'spectra',
    'spectrum_figure': 'spectra',
    'square_of_share': 'receptive_field',
}

__all__ = sorted(_PLACES)

if find_spec('matplotlib') is None:
    raise InstallationError('mmkerv.visualization needs matplotlib, which is not installed; pip install matplotlib')


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_PLACES[name]}'), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
