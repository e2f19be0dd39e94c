"""Theoretical receptive field: the number of pixels of the image, along each axis, that can change a value of a layer.

Along every path from the image, r <- r + (k - 1) d j and j <- j s, where j is the distance of neighbouring values in
pixels; the widest path counts. The field is followed in one forward pass.

Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.dynamic import DynamicKernel

CONVOLUTIONS = (nn.modules.conv._ConvNd, ConvNd)
POOLS = {F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d}
POOLS |= {torch.max_pool1d, torch.max_pool2d, torch.max_pool3d}
CONVOLUTION_FUNCTIONS = {torch.conv1d, torch.conv2d, torch.conv3d}
# Functions whose results depend on all positions, and those that remove the spatial axes.
GLOBAL = {torch.matmul, torch.bmm, torch.einsum, F.scaled_dot_product_attention, Tensor.matmul, Tensor.__matmul__}
REDUCTIONS = {'mean', 'sum', 'flatten', 'amax', 'max', 'linear'}


class Field(NamedTuple):
    """Receptive field of the values of one layer, with one entry for each axis.

    Args:
        size: extent in pixels; infinite if all pixels belong to it.
        jump: distance in pixels between the fields of neighbouring values.

    Example:
        >>> Field((1,), (1,)).windowed((3,), (2,), (1,)).windowed((3,), (1,), (1,))
        Field(size=(7,), jump=(2,))
    """

    size: tuple[float, ...]
    jump: tuple[float, ...]

    def windowed(self, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> 'Field':
        """Return the field after a sliding window over these values.

        Example:
            >>> Field((3, 3), (1, 1)).windowed((3, 1), (1, 1), (2, 1))
            Field(size=(7, 3), jump=(1, 1))
        """
        size = tuple(r + (k - 1) * d * j for r, j, k, d in zip(self.size, self.jump, kernel, dilation))
        return Field(size, tuple(j * s for j, s in zip(self.jump, stride)))

    def joined(self, other: 'Field') -> 'Field':
        """Return the smallest field that contains both, as that of a sum.

        Example:
            >>> Field((3, 3), (1, 1)).joined(Field((1, 5), (1, 1))).size
            (3, 5)
        """
        return Field(tuple(map(max, self.size, other.size)), tuple(map(max, self.jump, other.jump)))


@contextmanager
def followed(model: nn.Module, image: Tensor) -> Iterator[dict[nn.Module, Field]]:
    """Follow the receptive field of an image (N, C, *spatial) through the forward passes of a model in the block.

    As usual, normalisation is ignored. Values pooled over all positions, or mixed by attention, have an infinite field;
    values of regions (RoIAlign) have none.

    Args:
        model: any module.
        image: the tensor that is passed to the model, not a copy of it.

    Yields:
        The fields of the convolutions' outputs; of a shared convolution, the widest.

    Example:
        >>> model, x = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.MaxPool2d(3, 2, 1)), torch.rand(1, 3, 32, 32)
        >>> with followed(model, x) as fields:
        ...     _ = model(x)
        >>> fields[model[0]]
        Field(size=(7, 7), jump=(2, 2))
    """
    known = _Known()
    dims = image.dim() - 2
    known[image] = Field((1,) * dims, (1,) * dims)
    fields: dict[nn.Module, Field] = {}

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        known.entering[module] = known.of((args, kwargs))

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        field = known.entering.pop(module, None)
        if field is None or not isinstance(output, Tensor):
            return
        field = _after_layer(module, field)
        known[output] = field
        fields[module] = fields[module].joined(field) if module in fields else field

    convolutions = [m for m in model.modules() if isinstance(m, CONVOLUTIONS)]
    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in convolutions]
    handles += [m.register_forward_hook(after) for m in convolutions]
    try:
        with known:
            yield fields
    finally:
        for handle in handles:
            handle.remove()


def _after_layer(module: nn.Module, field: Field) -> Field:
    """The field after a convolution or an operator."""
    dims = len(field.size)
    if isinstance(module, DynamicKernel) and module._is_per_sample():
        # Its kernel depends on means over the image.
        field = Field((math.inf,) * dims, field.jump)
    kernel, stride, dilation = (_ntuple(dims)(getattr(module, key)) for key in ('kernel_size', 'stride', 'dilation'))
    if len(kernel) != dims:
        # A 1-D layer, for a sequence that is an image of one row.
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    if not getattr(module, 'transposed', False):
        return field.windowed(kernel, stride, dilation)
    taps = tuple(math.ceil(((k - 1) * d + 1) / s) for k, d, s in zip(kernel, dilation, stride))
    spread = field.windowed(taps, (1,) * dims, (1,) * dims)
    return Field(spread.size, tuple(j / s for j, s in zip(spread.jump, stride)))


class _Known(TorchFunctionMode):
    """Mode that keeps the field of every tensor that depends on the image."""

    def __init__(self):
        super().__init__()
        self.fields: dict[int, tuple[weakref.ref, Field]] = {}
        self.entering: dict[nn.Module, Field | None] = {}

    def __setitem__(self, tensor: Tensor, field: Field) -> None:
        self.fields[id(tensor)] = weakref.ref(tensor), field

    def of(self, values: Any) -> Field | None:
        """The field of all tensors in a structure together."""
        joined = None
        for value in tree_flatten(values)[0]:
            reference, field = self.fields.get(id(value), (None, None))
            # The id of a deleted tensor may be reused.
            if reference is not None and reference() is value:
                same_axes = joined is not None and len(joined.size) == len(field.size)
                joined = joined.joined(field) if same_axes else field
        return joined

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        tensors = [value for value in tree_flatten(outputs)[0] if isinstance(value, Tensor)]
        field = self.of((args, kwargs)) if tensors else None
        if field is not None:
            for tensor in tensors:
                self[tensor] = _after_function(func, args, kwargs, field, tensor)
        return outputs


def _after_function(func: Any, args: tuple, kwargs: dict, field: Field, output: Tensor) -> Field:
    """The field after a function of torch; any function that is not named here leaves it unchanged."""
    dims, name = len(field.size), getattr(func, '__name__', '')
    infinite = Field((math.inf,) * dims, field.jump)
    if func in GLOBAL:
        return infinite
    x = next((value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)), output)
    if func in POOLS:
        call = dict(zip(('input', 'kernel_size', 'stride', 'padding', 'dilation'), args)) | kwargs
        kernel = _ntuple(dims)(call['kernel_size'])
        # The fifth argument of an average pooling is not a dilation.
        dilation = 1 if 'avg' in name else call.get('dilation', 1)
        return field.windowed(kernel, _ntuple(dims)(call.get('stride') or kernel), _ntuple(dims)(dilation))
    if func in CONVOLUTION_FUNCTIONS:
        call = dict(zip(('input', 'weight', 'bias', 'stride', 'padding', 'dilation'), args)) | kwargs
        size = tuple(call['weight'].shape[2:])
        if len(size) == dims:
            return field.windowed(size, *(_ntuple(dims)(call.get(key, 1)) for key in ('stride', 'dilation')))
    if func is F.interpolate:
        # A linear interpolation reads two neighbouring values.
        values = 1 if kwargs.get('mode', 'nearest').startswith('nearest') else 2
        scale = [a / b for a, b in zip(x.shape[2:], output.shape[2:])]
        wide = field.windowed((values,) * dims, (1,) * dims, (1,) * dims)
        return Field(wide.size, tuple(j * s for j, s in zip(wide.jump, scale)))
    pooled = 'adaptive' in name and x.shape[2:] != output.shape[2:]
    several = x.dim() == dims + 2 and math.prod(x.shape[2:]) > 1
    reduced = name in REDUCTIONS and several and output.dim() < x.dim()
    return infinite if pooled or reduced else field
