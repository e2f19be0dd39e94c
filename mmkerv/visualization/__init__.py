"""Pictures of operators, of their responses, and of what networks attend to. Needs matplotlib."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmkerv.errors import InstallationError

# The module of each name. They are imported on first use: pictures of kernels need neither grad-cam nor a model's
# library, and the hook of this package is registered without matplotlib.
_MODULES = {
    'component_arrays': 'kernel_components',
    'components_figure': 'kernel_components',
    'contact_sheet': 'layer_sheet',
    'draw_explained': 'class_activation',
    'draw_feature_map': 'feature_maps',
    'draw_receptive_fields': 'receptive_field',
    'explain_image': 'class_activation',
    'image_arrays': 'image_gates',
    'image_figure': 'image_gates',
    'kernel_arrays': 'kernel_figures',
    'kernel_figure': 'kernel_figures',
    'pattern_arrays': 'kernel_components',
    'response_arrays': 'response',
    'response_figure': 'response',
    'spectrum_arrays': 'spectra',
    'spectrum_figure': 'spectra',
    'square_of_share': 'receptive_field',
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if find_spec('matplotlib') is None:
        raise InstallationError('mmkerv.visualization needs matplotlib, which is not installed; pip install matplotlib')
    return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
