"""Deployment: fold operators into plain convolutions, compare the two networks, export, load a trained model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmkerv.deploy.comparison import compare
    from mmkerv.deploy.config import deploy_config
    from mmkerv.deploy.fold import fold_checkpoint
    from mmkerv.deploy.onnx import export_onnx
    from mmkerv.deploy.trained_model import load_trained
    from mmkerv.deploy.weights import list_weights, load

__all__ = ['compare', 'deploy_config', 'export_onnx', 'fold_checkpoint', 'list_weights', 'load', 'load_trained']

_MODULES = {
    'compare': 'comparison',
    'deploy_config': 'config',
    'export_onnx': 'onnx',
    'fold_checkpoint': 'fold',
    'list_weights': 'weights',
    'load': 'weights',
    'load_trained': 'trained_model',
}


def __getattr__(name: str) -> Any:
    # Imported on first use: comparing, exporting and folding need libraries that the others do not.
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
