"""Multiply-adds and parameters of a network: for an image, for generating the kernels, and after folding."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.analysis.counting import counted
from mmkerv.deploy.model_outputs import RawOutputs, sample_inputs
from mmkerv.ops import frozen_kernels, switch_to_deploy


class Complexity(NamedTuple):
    """Multiply-adds of a forward pass of one image, and parameters.

    Args:
        image: multiply-adds of an image, without the generation of kernels that do not depend on it.
        kernels: multiply-adds of generating these: once per training step, once in a ``frozen_kernels`` block, never
            after folding.
        folded: multiply-adds of an image after folding.
        parameters: number of parameters.
        folded_parameters: number of parameters after folding.

    Example:
        >>> Complexity(10, 2, 10, 5, 4).kernels
        2
    """

    image: int
    kernels: int
    folded: int
    parameters: int
    folded_parameters: int


@torch.no_grad()
def complexity(model: nn.Module, shape: tuple[int, int]) -> Complexity:
    """Count parameters, and multiply-adds of convolutions, matrix products and the like as mmengine counts them.

    A model of mmdetection, mmsegmentation or mmpretrain is counted up to its raw outputs, a two-stage detector with a
    fixed number of regions (:func:`mmkerv.deploy.model_outputs.raw_outputs`); any other module up to what it returns.
    Elementwise functions (the power of a kervolution, the sine of a kernel net) are not counted, as in upstream's
    tools.

    Args:
        model: model in evaluation mode; it is not changed.
        shape: height and width of the image.

    Example:
        >>> complexity(model, (224, 224)).folded  # doctest: +SKIP
        1814073344
    """
    inputs, samples = next(sample_inputs(model, shape))
    folded = copy.deepcopy(model)
    switch_to_deploy(folded)
    with frozen_kernels(model):
        image = _count(model, inputs, samples)
    return Complexity(
        image=image,
        kernels=_count(model, inputs, samples) - image,
        folded=_count(folded, inputs, samples),
        parameters=sum(p.numel() for p in model.parameters()),
        folded_parameters=sum(p.numel() for p in folded.parameters()),
    )


def _count(model: nn.Module, inputs: Tensor, samples: list | None) -> int:
    with counted(RawOutputs(model, samples).eval(), inputs) as counts:
        return int(counts.total())
