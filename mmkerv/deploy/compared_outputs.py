"""What two forms of one network are compared by: the first kind of output that the network can compute from an image.

Upstream's networks differ in what they compute without annotations, text or a tracker: ``mode='tensor'`` of a detector
may ask for annotated objects, and that of several segmentors does not exist. So the kinds are tried in order.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.deploy.model_outputs import raw_outputs, sample_inputs, tensors_of
from mmkerv.errors import FoldCheckError

# What upstream's networks raise for an input, or an absence of annotations, that they cannot handle.
REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


class OutputKind(NamedTuple):
    """A kind of output.

    Args:
        name: in messages.
        compute: function of a model, its inputs (N, C, H, W) and data samples that returns the tensors.

    Example:
        >>> [kind.name for kind in KINDS]
        ['raw outputs', 'predictions', 'features of backbone and neck']
    """

    name: str
    compute: Callable[[nn.Module, Tensor, list | None], list[Tensor]]

    @torch.no_grad()
    def of(self, model: nn.Module, inputs: Tensor, samples: list | None = None) -> list[Tensor]:
        """Return the tensors; networks that draw random numbers, such as masks, draw the same in every call.

        Example:
            >>> KINDS[0].of(model, torch.rand(1, 3, 64, 64))  # doctest: +SKIP
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.compute(model, inputs, samples)


def _features(model: nn.Module, inputs: Tensor, samples: list | None) -> list[Tensor]:
    if hasattr(model, 'extract_feat'):
        return list(tensors_of(model.extract_feat(inputs)))
    features = model.backbone(inputs)
    return list(tensors_of(model.neck(features) if getattr(model, 'neck', None) is not None else features))


def _predictions(model: nn.Module, inputs: Tensor, samples: list | None) -> list[Tensor]:
    # With the features: a network that detects nothing has empty predictions, which are always equal.
    predicted = [sample.to_dict() for sample in model(inputs, samples, mode='predict')]
    return [*_features(model, inputs, samples), *tensors_of(predicted)]


KINDS = (
    OutputKind('raw outputs', raw_outputs),
    OutputKind('predictions', _predictions),
    OutputKind('features of backbone and neck', _features),
)


def computable(model: nn.Module, shapes: Iterable[tuple[int, int]]) -> tuple[OutputKind, tuple[int, int]]:
    """Return the first kind of output that a network computes from a random image, and the size of that image.

    Args:
        model: network of the three libraries, in evaluation mode.
        shapes: heights and widths to try for each kind.

    Raises:
        FoldCheckError: if there is none; the message gives the reason for each kind.

    Example:
        >>> kind, shape = computable(model, [(224, 224)])  # doctest: +SKIP
    """
    reasons = {}
    for kind in KINDS:
        for shape in shapes:
            try:
                outputs = kind.of(model, *next(sample_inputs(model, shape)))
            except REFUSALS as error:
                text = str(error).strip().partition('\n')[0]
                reasons.setdefault(kind.name, f'{type(error).__name__} {text}'.strip())
                continue
            if outputs and all(tensor.isfinite().all() for tensor in outputs):
                return kind, shape
            reasons.setdefault(kind.name, 'NaN or infinite' if outputs else 'no tensors')
    raise FoldCheckError(
        'the network computes nothing from a random image that could be compared ('
        + '; '.join(f'{name}: {reason}' for name, reason in reasons.items())
        + '); give the size it takes with --shape H W'
    )
