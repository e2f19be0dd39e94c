"""Context manager that computes generated kernels once for a block of code."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mmkerv.ops.core.generated import GeneratedKernel

_lock = threading.Lock()


@contextmanager
def frozen_kernels(model: nn.Module) -> Iterator[nn.Module]:
    """Compute each generated kernel of ``model`` once, on entry, and use it in every forward inside the block.

    Inference with an unfolded network then costs as much as with a plain network. Parameters must not change inside the
    block. Under ``fully_shard`` every process must enter it, because the kernels are computed from gathered parameters.
    Blocks may be nested and may be open in several threads; the kernels are dropped when the last one closes.
    They carry no gradient, and are neither copied by ``deepcopy`` nor pickled.

    Args:
        model: any module; its operators may be at any depth.

    Yields:
        ``model``.

    Raises:
        RuntimeError: inside the block, if an operator is trained or loaded from a state dict.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> model = nn.Sequential(CoCConv2d(3, 8, 3), nn.ReLU()).eval()
        >>> with frozen_kernels(model), torch.no_grad():
        ...     y = model(torch.randn(1, 3, 5, 5))
    """
    operators = [m for m in model.modules() if isinstance(m, GeneratedKernel) and m._has_kernel]
    opened = []
    try:
        for operator in operators:
            with _lock:
                if not operator._frozen_blocks:
                    operator._frozen_kernel, operator._frozen_bias = _detached(operator)
                operator._frozen_blocks += 1
                opened.append(operator)
        yield model
    finally:
        for operator in opened:
            with _lock:
                operator._frozen_blocks -= 1
                if not operator._frozen_blocks:
                    operator._frozen_kernel = operator._frozen_bias = None


def _detached(operator: GeneratedKernel) -> tuple[torch.Tensor, torch.Tensor | None]:
    # A kernel computed in inference mode could not be used by autograd later in the block.
    with torch.inference_mode(False), torch.no_grad(), _gathered(operator):
        return operator._forward_kernel(), operator._forward_bias()


@contextmanager
def _gathered(operator: nn.Module) -> Iterator[None]:
    """Put whole tensors in place of the shards (``DTensor``) that FSDP's ``fully_shard`` leaves outside forward."""
    shards = [
        (module, name, parameter)
        for module in operator.modules()
        for name, parameter in module._parameters.items()
        if hasattr(parameter, 'full_tensor')
    ]
    try:
        for module, name, parameter in shards:
            module._parameters[name] = nn.Parameter(parameter.full_tensor(), requires_grad=parameter.requires_grad)
        yield
    finally:
        for module, name, parameter in shards:
            module._parameters[name] = parameter
