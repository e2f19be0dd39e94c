"""Theoretical receptive field: how many pixels of the image, along each axis, can change one value of a layer.

r <- r + (k - 1) d j and j <- j s along every path from the image, where j is the distance in pixels of neighbouring
values, and the widest path counts: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
Networks", Distill 2019. It is followed in one forward pass.
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

CONVOLUTIONS = (nn.modules.conv._ConvNd, ConvNd)
POOLS = {F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d}
POOLS |= {torch.max_pool1d, torch.max_pool2d, torch.max_pool3d}
UNFOLDED = {torch.conv1d, torch.conv2d, torch.conv3d}
# What mixes positions without a window.
GLOBAL = {torch.matmul, torch.bmm, torch.einsum, F.scaled_dot_product_attention, Tensor.matmul, Tensor.__matmul__}


class Field(NamedTuple):
    """Receptive field of the values of one layer, one entry for each axis.

    Args:
        size: extent in pixels, infinite if every pixel counts.
        jump: distance in pixels of the fields of neighbouring values.

    Example:
        >>> Field((1,), (1,)).windowed((3,), (2,), (1,)).windowed((3,), (1,), (1,))
        Field(size=(7,), jump=(2,))
    """

    size: tuple[float, ...]
    jump: tuple[float, ...]

    def windowed(self, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> 'Field':
        """Return the field behind a window that moves over these values.

        Example:
            >>> Field((3, 3), (1, 1)).windowed((3, 1), (1, 1), (2, 1))
            Field(size=(7, 3), jump=(1, 1))
        """
        size = tuple(r + (k - 1) * d * j for r, j, k, d in zip(self.size, self.jump, kernel, dilation))
        return Field(size, tuple(j * s for j, s in zip(self.jump, stride)))

    def joined(self, other: 'Field') -> 'Field':
        """Return the field of what both reach, such as a sum.

        Example:
            >>> Field((3, 3), (1, 1)).joined(Field((1, 5), (1, 1))).size
            (3, 5)
        """
        return Field(tuple(map(max, self.size, other.size)), tuple(map(max, self.jump, other.jump)))


@contextmanager
def followed(model: nn.Module, image: Tensor) -> Iterator[dict[nn.Module, Field]]:
    """Follow the receptive field from an image (N, C, *spatial) through the model's forward passes in the block.

    Normalisation is not counted, as is usual. A value that was pooled over all positions, and one that attention mixed,
    sees everything; what was cut out of regions (RoIAlign) has no field.

    Args:
        model: any module.
        image: the very tensor that goes in.

    Yields:
        The fields of the convolutions' outputs; of a shared one, the widest.

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

    def before(module: nn.Module, args: tuple) -> None:
        known.entering[module] = known.of(args)

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        field = known.entering.pop(module, None)
        if field is None or not isinstance(output, Tensor):
            return
        field = _behind(module, field)
        known[output] = field
        fields[module] = fields[module].joined(field) if module in fields else field

    convolutions = [m for m in model.modules() if isinstance(m, CONVOLUTIONS)]
    handles = [m.register_forward_pre_hook(before) for m in convolutions]
    handles += [m.register_forward_hook(after) for m in convolutions]
    try:
        with known:
            yield fields
    finally:
        for handle in handles:
            handle.remove()


def _behind(module: nn.Module, field: Field) -> Field:
    dims = len(field.size)
    kernel, stride, dilation = (_ntuple(dims)(getattr(module, key)) for key in ('kernel_size', 'stride', 'dilation'))
    if len(kernel) != dims:
        # A sequence that stands in an image of one row.
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    if not getattr(module, 'transposed', False):
        return field.windowed(kernel, stride, dilation)
    taps = tuple(math.ceil(((k - 1) * d + 1) / s) for k, d, s in zip(kernel, dilation, stride))
    spread = field.windowed(taps, (1,) * dims, (1,) * dims)
    return Field(spread.size, tuple(j / s for j, s in zip(spread.jump, stride)))


class _Known(TorchFunctionMode):
    """Remembers the field of every tensor that came from the image."""

    def __init__(self):
        super().__init__()
        self.fields: dict[int, tuple[weakref.ref, Field]] = {}
        self.entering: dict[nn.Module, Field | None] = {}

    def __setitem__(self, tensor: Tensor, field: Field) -> None:
        self.fields[id(tensor)] = weakref.ref(tensor), field

    def of(self, values: Any) -> Field | None:
        """The field of all tensors in a structure together."""
        found = None
        for value in tree_flatten(values)[0]:
            reference, field = self.fields.get(id(value), (None, None))
            # An id is used again when its tensor is gone.
            if reference is not None and reference() is value:
                found = field if found is None or len(found.size) != len(field.size) else found.joined(field)
        return found

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        tensors = [value for value in tree_flatten(outputs)[0] if isinstance(value, Tensor)]
        field = self.of((args, kwargs)) if tensors else None
        if field is not None:
            for tensor in tensors:
                self[tensor] = _after(func, args, kwargs, field, tensor)
        return outputs


def _after(func: Any, args: tuple, kwargs: dict, field: Field, output: Tensor) -> Field:
    dims, everything = len(field.size), Field((math.inf,) * len(field.size), field.jump)
    if func in GLOBAL:
        return everything
    x = next((value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)), output)
    if func in POOLS:
        given = dict(zip(('input', 'kernel_size', 'stride', 'padding', 'dilation'), args)) | kwargs
        kernel = _ntuple(dims)(given['kernel_size'])
        dilation = 1 if 'avg' in func.__name__ else given.get('dilation', 1)
        return field.windowed(kernel, _ntuple(dims)(given.get('stride') or kernel), _ntuple(dims)(dilation))
    if func in UNFOLDED:
        given = dict(zip(('input', 'weight', 'bias', 'stride', 'padding', 'dilation'), args)) | kwargs
        size = tuple(given['weight'].shape[2:])
        if len(size) == dims:
            return field.windowed(size, *(_ntuple(dims)(given.get(key, 1)) for key in ('stride', 'dilation')))
    if func is F.interpolate:
        between = 1 if kwargs.get('mode', 'nearest').startswith('nearest') else 2
        scale = [a / b for a, b in zip(x.shape[2:], output.shape[2:])]
        wide = field.windowed((between,) * dims, (1,) * dims, (1,) * dims)
        return Field(wide.size, tuple(j * s for j, s in zip(wide.jump, scale)))
    pooled = 'adaptive' in getattr(func, '__name__', '') and x.shape[2:] != output.shape[2:]
    gone = x.dim() == dims + 2 and output.dim() < x.dim() and math.prod(x.shape[2:]) > 1
    flat = getattr(func, '__name__', '') in ('mean', 'sum', 'flatten', 'amax', 'max', 'linear')
    return everything if pooled or (gone and flat) else field
