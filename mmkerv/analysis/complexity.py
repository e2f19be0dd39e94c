"""Operations and parameters of a network with operators: per image, per kernel generation, and after folding."""

import copy
from typing import NamedTuple

import torch
from mmengine.analysis import get_model_complexity_info
from torch import Tensor, nn

from mmkerv.deploy.model_outputs import RawOutputs, sample_inputs
from mmkerv.ops import frozen_kernels, switch_to_deploy


class Complexity(NamedTuple):
    """What one forward pass of one image costs, in multiply-adds, and the parameters.

    Args:
        image: multiply-adds that each image costs.
        kernels: multiply-adds of generating the kernels: once a training step, once in ``frozen_kernels``, never after
            folding.
        folded: multiply-adds of an image after folding.
        parameters: of the network.
        folded_parameters: of the folded network.

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
    """Count multiply-adds of convolutions, matrix products and the like, as mmengine does, and parameters.

    A model of mmdetection, mmsegmentation or mmpretrain is counted to its raw outputs, a two-stage detector with 64
    regions; a plain module to what it returns. Elementwise functions (the power of a kervolution, the sine of a kernel
    net) are not counted, as in upstream's tools.

    Args:
        model: in evaluation mode; it is left as it is.
        shape: height and width of the image.

    Example:
        >>> complexity(model, (224, 224)).folded  # doctest: +SKIP
        1814073344
    """
    inputs, samples = next(sample_inputs(model, shape, None))
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
    found = get_model_complexity_info(
        RawOutputs(model, samples).eval(), None, (inputs,), show_table=False, show_arch=False
    )
    return int(found['flops'])
