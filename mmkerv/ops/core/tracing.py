"""Checks of whether torch records a graph of its operations, and for which sizes, or transforms them (torch.func)."""

import torch
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


def _never() -> bool:
    return False


# torch 2.7 and later.
_is_exporting = getattr(torch.compiler, 'is_exporting', _never)
_is_dynamo_compiling = getattr(torch.compiler, 'is_dynamo_compiling', _never)
