"""Learned parameters that stay within limits: positions, radii, the hyperparameters of kernel functions."""

from torch import Tensor, nn

from mmkerv.ops.core.tracing import needs_plain_operations


def within(parameter: Tensor, low: float | Tensor | None = None, high: float | Tensor | None = None) -> Tensor:
    """Return a parameter clamped to its limits, with the gradient of the identity (straight-through estimator).

    A parameter at a limit can so come back. The layer's own parameter is clamped in place: it would otherwise drift
    further and take as long to return. A recorded graph, a transform of ``torch.func`` and ``functional_call`` with
    tensors that are no parameters change no tensor.

    Args:
        parameter: any shape.
        low: least value, a number or a tensor that broadcasts.
        high: greatest value, of the same kind as ``low``.

    Example:
        >>> import torch
        >>> p = nn.Parameter(torch.tensor([2.0, 0.5])); _ = within(p, -1.0, 1.0); p.tolist()
        [1.0, 0.5]
    """
    if not needs_plain_operations() and isinstance(parameter, nn.Parameter):
        # Through `data`, which autograd does not track: the graph of an earlier call of the layer stays valid. The
        # values saved in that graph are already in range, so they do not change.
        parameter.data.clamp_(low, high)
        return parameter
    return parameter.clamp(low, high).detach() + (parameter - parameter.detach())
