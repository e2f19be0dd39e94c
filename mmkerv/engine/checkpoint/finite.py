"""Are the tensors of a checkpoint numbers that a network can compute with? Loading them asks only for their shapes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkerv.errors import NonFiniteWeightsError

# A tensor may repeat what is stored (an expanded buffer), but not become what no memory holds.
LARGEST_REPEATED = 2**24


def require_finite(weights: Mapping[str, Any], source: str, own: Mapping[str, Tensor] | None = None) -> None:
    """Refuse weights that are not finite plain numbers; what is no tensor is passed over.

    Args:
        weights: tensors by name.
        source: where they come from, for messages.
        own: the network's tensors. Where they are floating-point numbers, the weights must be, and where they are not
            finite from the start (a mask of -inf), the weights need not be.

    Raises:
        NonFiniteWeightsError: naming the first tensor, what is wrong with it, and the cure.

    Example:
        >>> require_finite({'norm.weight': torch.tensor([1.0, float('nan')])}, 'a.pth')
        Traceback (most recent call last):
        ...
        mmkerv.errors.NonFiniteWeightsError: checkpoint 'a.pth' holds NaN in norm.weight, ...
    """
    own = own or {}
    for name, value in weights.items():
        if isinstance(value, Tensor) and (fault := _fault(value, own.get(name))):
            raise NonFiniteWeightsError(
                f'checkpoint {source!r}: {name} {fault}. Give a checkpoint that a runner saved, or '
                'torch.save(model.state_dict(), FILE)'
            )
    diverged = [name for name in not_finite(weights) if name not in own or _finite(own[name])]
    if diverged:
        first = diverged[0]
        found = 'NaN' if bool(torch.isnan(weights[first]).any()) else 'infinite numbers'
        rest = f', the first of {len(diverged)} such tensors' if len(diverged) > 1 else ''
        raise NonFiniteWeightsError(
            f'checkpoint {source!r} holds {found} in {first}{rest}, so that the network computes NaN: the training it '
            'comes from has diverged. Take an earlier checkpoint; train with a lower learning rate or '
            'optim_wrapper.clip_grad=dict(max_norm=35)'
        )


def not_finite(weights: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinite numbers.

    Args:
        weights: tensors of plain numbers by name; what is no tensor is passed over.

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
    plain = {name: v for name, v in weights.items() if isinstance(v, Tensor) and not _fault(v, None)}
    return next((name for name in not_finite(plain) if bool(torch.isnan(plain[name]).any())), None)


def _fault(value: Tensor, own: Tensor | None) -> str | None:
    if value.layout != torch.strided or value.is_quantized or value.device.type == 'meta':
        kind = 'quantised' if value.is_quantized else 'without data' if value.device.type == 'meta' else 'sparse'
        return f'is a tensor of another kind ({kind}), not of plain numbers'
    stored = value.untyped_storage().nbytes() // value.element_size()
    if value.numel() > max(stored, LARGEST_REPEATED):
        return f'claims {value.numel()} numbers, and {stored} are stored'
    if own is not None and own.is_floating_point() and not value.is_floating_point():
        return f'is of type {str(value.dtype).removeprefix("torch.")}, and the network computes with floating point'
    return None


def _finite(value: Tensor) -> bool:
    if not value.numel() or not (value.is_floating_point() or value.is_complex()):
        return True
    if value.is_complex():
        value = torch.view_as_real(value)
    # One pass without a copy; small types know no comparison, or none in torch 2.1.
    low, high = (value.detach().float() if value.element_size() <= 2 else value.detach()).aminmax()
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))
