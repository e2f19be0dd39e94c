"""Checks of whether torch records a graph of its operations, and for which sizes, or transforms them (torch.func)."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.fx
from torch.autograd import forward_ad

# Custom autograd functions are for eager execution only; torch.compile decides by itself what to save. torch 2.1 cannot
# trace one with arguments other than tensors, and 2.11 computes wrong gradients for one that changes its result in
# place.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling


def is_recording() -> bool:
    """Return ``True`` while ``torch.compile``, ``torch.export`` or ``torch.jit.trace`` records a graph of operations.

    A saved trace cannot contain autograd functions, and the legacy ONNX exporter loses writes into a view.

    Example:
        >>> is_recording()
        False
    """
    return is_compiling() or torch.jit.is_tracing()


def is_transformed() -> bool:
    """Return ``True`` inside a transform of ``torch.func`` (``vmap``, ``grad``, ``jvp``, ...) or of forward-mode AD.

    Example:
        >>> torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(2))
        tensor([1., 1.])
    """
    # torch.compile cannot trace these two questions, and needs no answer: it is recording.
    return not is_compiling() and (torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def needs_plain_operations() -> bool:
    """Return ``True`` where only torch's operations work: no autograd functions, saved-tensor hooks or changed data.

    Example:
        >>> needs_plain_operations()
        False
    """
    return is_recording() or is_transformed()


def is_traced_for_any_size() -> bool:
    """Return ``True`` while ``torch.jit.trace`` or ``torch.export`` records a graph that may later run on other sizes.

    Example:
        >>> is_traced_for_any_size()
        False
    """
    # Dynamo treats is_exporting() as true in torch.compile too.
    return torch.jit.is_tracing() or (_is_exporting() and not _is_dynamo_compiling())


def may_lack_fourier_transforms() -> bool:
    """Return ``True`` while a graph is recorded for a format that may have no Fourier transforms, such as ONNX.

    It has them from opset 17 on, and the legacy exporter of torch knows no inverse one.

    Example:
        >>> may_lack_fourier_transforms()
        False
    """
    return is_traced_for_any_size() and (torch.onnx.is_in_onnx_export() or not torch.jit.is_tracing())


def _never() -> bool:
    return False


# torch 2.7 and later.
_is_exporting = getattr(torch.compiler, 'is_exporting', _never)
_is_dynamo_compiling = getattr(torch.compiler, 'is_dynamo_compiling', _never)


def fx_leaf(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``torch.fx.symbolic_trace`` record a module as one call, by decorating its ``forward``.

    What an operator computes depends on the sizes and the type of its input, which a symbolic trace does not have. Fold
    first where the graph is to show the convolution.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> graph = torch.fx.symbolic_trace(torch.nn.Sequential(CoCConv2d(3, 8, 3))).graph
        >>> [node.op for node in graph.nodes]
        ['placeholder', 'call_module', 'output']
    """

    @functools.wraps(forward)
    def wrapped(self: torch.nn.Module, input: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(input, torch.fx.Proxy):
            tracer = input.tracer
            return tracer.create_proxy('call_module', tracer.path_of_module(self), (input, *args), kwargs)
        return forward(self, input, *args, **kwargs)

    return wrapped
