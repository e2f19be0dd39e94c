"""Convolution with a generated kernel that is recomputed in backward instead of being saved."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmkerv.ops.core.precision import convolution_type

# Placeholder of the kernel in the graph.
_REBUILD = object()


def only_unchanged(
    make: Callable[[], Tensor], tensors: Callable[[], Iterable[Tensor]], of: str
) -> Callable[[], Tensor]:
    """Return ``make``, which then raises if what it reads has changed since this call.

    Args:
        make: computes a tensor from those that ``tensors`` returns.
        tensors: returns the tensors that ``make`` would read now.
        of: what is made and when, for the message.

    Example:
        >>> w = torch.ones(2)
        >>> double = only_unchanged(lambda: 2 * w, lambda: [w], 'a kernel')
        >>> w = w.add_(1)
        >>> double()
        Traceback (most recent call last):
        ...
        RuntimeError: the parameters of a kernel have changed since forward; call backward before the optimizer steps...
    """
    at_forward = [(tensor, tensor._version) for tensor in tensors()]

    def checked() -> Tensor:
        if not all(now is then and then._version == version for now, (then, version) in zip(tensors(), at_forward)):
            raise RuntimeError(
                f'the parameters of {of} have changed since forward; call backward before the optimizer steps and '
                'before torch.func.functional_call returns'
            )
        return make()

    return checked


def convolve_and_forget(
    x: Tensor,
    make: Callable[[], Tensor],
    convolve: Callable[[Tensor, Tensor], Tensor],
    parameters: Callable[[], Iterable[Tensor]],
) -> Tensor:
    r"""Compute :math:`y = \mathrm{convolve}(x, \mathrm{make}())` and save the parameters instead of the kernel.

    Backward computes the kernel twice more: for the gradient of x, and for the gradients of the parameters. The
    gradients are bitwise equal to those with a saved kernel.

    Args:
        x: input, (N, C, H, W).
        make: computes the kernel from the tensors that ``parameters`` returns, deterministically.
        convolve: computes the output from the input and the kernel.
        parameters: returns the tensors that ``make`` would read now; from forward to backward they must be the same,
            and not be changed in place.

    Raises:
        RuntimeError: in backward, if they are other tensors or were changed in place.

    Example:
        >>> w, x = torch.ones(1, 1, 3, 3, requires_grad=True), torch.ones(1, 1, 5, 5)
        >>> y = convolve_and_forget(x, lambda: 2 * w, torch.conv2d, lambda: [w])
        >>> y.sum().backward(); float(w.grad[0, 0, 0, 0])
        18.0
    """
    make_again = only_unchanged(make, parameters, 'a kernel that is recomputed in backward (recompute=True)')
    kernel = checkpoint(make_again, use_reentrant=False, preserve_rng_state=False)
    # Cast here: autocast would cast inside the convolution and save a copy that `pack` cannot recognise as the kernel.
    kernel = kernel.to(convolution_type(kernel))
    # Numbers, not the kernel itself: everything the hooks reference lives as long as the graph.
    identity, dtype = (kernel.data_ptr(), kernel.shape), kernel.dtype

    def pack(tensor: Tensor) -> Any:
        return _REBUILD if (tensor.data_ptr(), tensor.shape) == identity else tensor

    def unpack(packed: Any) -> Tensor:
        if packed is not _REBUILD:
            return packed
        with torch.no_grad():
            return make_again().to(dtype)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return convolve(x, kernel)
