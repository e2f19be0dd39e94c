"""A trained network of continuous kernels at another resolution."""

from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.ckconv.base import ContinuousKernel


def set_resolution(model: nn.Module, ratio: float | tuple[float, ...]) -> list[str]:
    """Run a trained network at another resolution: every continuous kernel is sampled anew.

    All layers are checked before the first is changed.

    Args:
        model: any module; its operators may lie at any depth, or be the model itself.
        ratio: samples (pixels) at run time for each one in training, one number, or one for each axis.

    Returns:
        The names of the layers whose resolution was set.

    Raises:
        ValueError: if the model has no continuous kernel, or the ratio leaves a kernel without a sample.

    Source: CKConv, ICLR 2022.

    Example:
        >>> from mmkerv.ops import CKConv2d
        >>> set_resolution(nn.Sequential(CKConv2d(3, 8, 7, padding=3), nn.ReLU()), 0.5)
        ['0']
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, ContinuousKernel)}
    if not layers:
        raise ArgumentError(
            'set_resolution found no CKConv in the model: only continuous kernels can be sampled anew; a folded '
            'network has none'
        )
    for name, layer in layers.items():
        try:
            layer._checked_resolution(ratio)
        except (ValueError, RuntimeError) as error:
            raise type(error)(f'{name}: {error}' if name else str(error)) from error
    for layer in layers.values():
        layer.set_resolution(ratio)
    return list(layers)
