"""Floating-point types that the operators compute in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mmkerv.errors import InputTypeError

# Types that autocast casts; it leaves float64 and integers as they are.
_CAST = (torch.float32, torch.float16, torch.bfloat16)


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type that kernels are computed in: float64 for float64 parameters, float32 for all others.

    Example:
        >>> wide_type(torch.bfloat16), wide_type(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def full_precision(device: torch.device) -> AbstractContextManager:
    """Switch autocast off on devices that have it.

    Example:
        >>> with torch.autocast('cpu', torch.bfloat16), full_precision(torch.device('cpu')):
        ...     torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype
        torch.float32
    """
    return nullcontext() if device.type in ('meta', 'mps') else torch.autocast(device.type, enabled=False)


def autocast_type(device: torch.device) -> torch.dtype | None:
    """Return the type that autocast computes convolutions in on ``device``, or ``None`` where it is off.

    Example:
        >>> with torch.autocast('cpu', torch.bfloat16):
        ...     autocast_type(torch.device('cpu'))
        torch.bfloat16
    """
    if device.type not in ('cpu', 'cuda'):
        return None
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    # torch before 2.4
    if device.type == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def convolution_type(x: Tensor) -> torch.dtype:
    """Return the type that torch's convolutions compute ``x`` in: that of autocast where it casts, else its own.

    Example:
        >>> with torch.autocast('cpu', torch.bfloat16):
        ...     convolution_type(torch.ones(1)), convolution_type(torch.ones(1).double())
        (torch.bfloat16, torch.float64)
    """
    return (autocast_type(x.device) if x.dtype in _CAST else None) or x.dtype


def require_type(x: Tensor, parameter: Tensor, layer: str) -> None:
    """Raise unless torch's convolutions would take ``x`` with such a parameter: of its type, or cast by autocast.

    For layers that compute in another type than that of their input, so that torch would not notice.

    Args:
        x: input of the layer.
        parameter: a parameter of the layer.
        layer: name of the layer, for the message.

    Raises:
        InputTypeError: if the types differ and autocast does not cast both.

    Example:
        >>> require_type(torch.ones(1, dtype=torch.uint8), torch.ones(1), 'CKConv2d')
        Traceback (most recent call last):
        ...
        mmkerv.errors.InputTypeError: the input of CKConv2d has type torch.uint8, its parameters torch.float32; ...
    """
    if x.dtype == parameter.dtype:
        return
    if x.dtype in _CAST and parameter.dtype in _CAST and autocast_type(x.device) is not None:
        return
    raise InputTypeError(
        f'the input of {layer} has type {x.dtype}, its parameters {parameter.dtype}; cast one of them, as with '
        f'x.to({parameter.dtype})'
    )
