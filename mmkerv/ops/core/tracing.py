"""Whether torch is recording a graph of its operations, and for which sizes."""

import torch

# Custom autograd functions are for eager execution; torch.compile saves by itself what is worth it. torch 2.1 cannot
# trace one that takes more than tensors, and 2.11 gives wrong gradients to one that changes in place what it returns.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling


def is_recording() -> bool:
    """Whether ``torch.compile``, ``torch.export`` or ``torch.jit.trace`` is making a graph of torch's operations.

    A saved trace has no place for autograd functions, and the legacy ONNX exporter loses what is written into a view.

    Example:
        >>> is_recording()
        False
    """
    return is_compiling() or torch.jit.is_tracing()


def is_traced_for_any_size() -> bool:
    """Whether the graph being recorded, by ``torch.jit.trace`` or ``torch.export``, is to serve other sizes as well.

    Example:
        >>> is_traced_for_any_size()
        False
    """
    # Dynamo takes is_exporting() for true in torch.compile too.
    return torch.jit.is_tracing() or (_is_exporting() and not _is_dynamo_compiling())


def _never() -> bool:
    return False


# torch 2.7 and later.
_is_exporting = getattr(torch.compiler, 'is_exporting', _never)
_is_dynamo_compiling = getattr(torch.compiler, 'is_dynamo_compiling', _never)
