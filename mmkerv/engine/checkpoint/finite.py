"""Check that the tensors of a checkpoint are finite plain numbers; loading them compares only their shapes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkerv.errors import NonFiniteWeightsError

# Elements that a tensor may have beyond those stored (an expanded buffer), so that no file can claim a tensor larger
# than the memory.
LARGEST_EXPANDED = 2**24


def require_finite(weights: Mapping[str, Any], source: str, own: Mapping[str, Tensor] | None = None) -> None:
    """Refuse weights that are not finite plain numbers; values that are no tensors are ignored.

    Args:
        weights: tensors by name.
        source: name of the checkpoint, for messages.
        own: the network's tensors by name. If one is floating-point, the weight must be too; if one is not finite
            itself (a mask of -inf), the weight need not be.

    Raises:
        NonFiniteWeightsError: naming the first tensor, what is wrong with it, and what to do.

    Example:
        >>> require_finite({'norm.weight': torch.tensor([1.0, float('nan')])}, 'a.pth')
        Traceback (most recent call last):
        ...
        mmkerv.errors.NonFiniteWeightsError: checkpoint 'a.pth' holds NaN in norm.weight, ...
    """
    own = own or {}
    for name, value in weights.items():
        if isinstance(value, Tensor) and (problem := _problem(value, own.get(name))):
            raise NonFiniteWeightsError(
                f'checkpoint {source!r}: {name} {problem}. Give a checkpoint that a runner saved, or '
                'torch.save(model.state_dict(), FILE)'
            )
    diverged = [name for name in not_finite(weights) if name not in own or _finite(own[name])]
    if diverged:
        first = diverged[0]
        values = 'NaN' if bool(torch.isnan(weights[first]).any()) else 'infinite numbers'
        others = f', the first of {len(diverged)} such tensors' if len(diverged) > 1 else ''
        raise NonFiniteWeightsError(
            f'checkpoint {source!r} holds {values} in {first}{others}, so that the network computes NaN: its training '
            'has diverged. Take an earlier checkpoint; train with a lower learning rate or '
            'optim_wrapper.clip_grad=dict(max_norm=35)'
        )


def not_finite(weights: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinite numbers.

    Args:
        weights: tensors of plain numbers by name; other values are ignored.

    Example:
        >>> not_finite({'weight': torch.ones(2), 'bias': torch.tensor([0.0, float('inf')])})
        ['bias']
    """
    return [name for name, value in weights.items() if isinstance(value, Tensor) and not _finite(value)]


def first_nan(weights: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor that holds NaN.

    Example:
        >>> first_nan({'weight': torch.ones(2), 'bias': torch.tensor([0.0, float('nan')])})
        'bias'
    """
    plain = {name: v for name, v in weights.items() if isinstance(v, Tensor) and not _problem(v, None)}
    return next((name for name in not_finite(plain) if bool(torch.isnan(plain[name]).any())), None)


def _problem(value: Tensor, own: Tensor | None) -> str | None:
    """Return what keeps a tensor from being plain numbers for ``own``, as the end of a sentence."""
    kind = None
    if value.is_quantized:
        kind = 'quantised'
    elif value.device.type == 'meta':
        kind = 'without data'
    elif value.layout != torch.strided:
        kind = 'sparse'
    if kind is not None:
        return f'is a tensor of another kind ({kind}), not of plain numbers'
    stored = value.untyped_storage().nbytes() // value.element_size()
    if value.numel() > max(stored, LARGEST_EXPANDED):
        return f'claims {value.numel()} numbers, and {stored} are stored'
    if own is not None and own.is_floating_point() and not value.is_floating_point():
        return f'is of type {str(value.dtype).removeprefix("torch.")}, and the network computes with floating point'
    return None


def _finite(value: Tensor) -> bool:
    if not value.numel() or not (value.is_floating_point() or value.is_complex()):
        return True
    if value.is_complex():
        value = torch.view_as_real(value)
    # aminmax needs one pass and no copy; it is not implemented for 8- and 16-bit types (in torch 2.1).
    low, high = (value.detach().float() if value.element_size() <= 2 else value.detach()).aminmax()
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))
