"""Comparison of two models: their raw outputs, inputs to compute these from, and the largest difference."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkerv.ops.core.generated import GeneratedKernel, relative_change

# Regions of interest that the second stage of a two-stage detector gets.
NUM_REGIONS = 64


class RawOutputs(nn.Module):
    """Wrapper that maps a batch of images to a flat tuple of tensors, for exporters, tracers and counters.

    A model of mmdetection, mmsegmentation or mmpretrain yields what :func:`raw_outputs` returns: preprocessing, box
    decoding and thresholds are left out.

    Args:
        model: such a model, or any network of images.
        samples: data samples, as a two-stage detector needs them.

    Example:
        >>> [tuple(t.shape) for t in RawOutputs(nn.Conv2d(3, 8, 3))(torch.randn(1, 3, 5, 5))]
        [(1, 8, 3, 3)]
    """

    def __init__(self, model: nn.Module, samples: list | None = None):
        super().__init__()
        self.model, self.samples = model, samples
        # The legacy ONNX exporter returns this wrapper, and so the model, to the wrapper's mode.
        self.train(model.training)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return every floating-point tensor that the model computes from (N, C, H, W).

        Example:
            >>> len(RawOutputs(nn.Identity())(torch.ones(1, 3, 4, 4)))
            1
        """
        if hasattr(self.model, 'data_preprocessor'):
            return tuple(raw_outputs(self.model, inputs, self.samples))
        return tuple(tensors_of(self.model(inputs)))


@torch.no_grad()
def raw_outputs(model: nn.Module, inputs: Tensor, samples: list | None = None) -> list[Tensor]:
    """Return every tensor that a model of the three libraries computes from (N, C, H, W) before post-processing.

    The second stage of a two-stage detector gets fixed regions. The first stage sorts its own regions by score, so a
    difference in the last digit would change which regions are compared.

    Args:
        model: model of mmdetection, mmsegmentation or mmpretrain.
        inputs: preprocessed images.
        samples: data samples, as a detector needs them.

    Example:
        >>> raw_outputs(model, torch.rand(1, 3, 64, 64))  # doctest: +SKIP
    """
    if not (hasattr(model, 'roi_head') and hasattr(getattr(model, 'rpn_head', None), 'forward_single')):
        return list(tensors_of(model(inputs, samples, mode='tensor')))
    from mmengine.structures import InstanceData

    regions = InstanceData(bboxes=_regions(inputs.shape[2:]).to(inputs))
    features = model.extract_feat(inputs)
    second = model.roi_head.forward(features, [regions] * len(inputs), samples)
    return list(tensors_of([features, model.rpn_head(features), second]))


def _regions(shape: tuple[int, int]) -> Tensor:
    """Return boxes (N, 4) as x1, y1, x2, y2 in an image of a height and width."""
    # From numpy: the tracing that counts operations cannot record a generator of torch.
    corners = np.random.default_rng(0).random((NUM_REGIONS, 2, 2), np.float32) * np.array(shape[::-1], np.float32)
    return torch.from_numpy(np.concatenate([corners.min(1), corners.max(1)], 1))


def largest_difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Return the largest difference of two lists of tensors, each relative to the largest magnitude of the first.

    Different numbers or shapes of tensors, and NaN, count as infinite.

    Example:
        >>> round(largest_difference([torch.tensor([1.0, 4.0])], [torch.tensor([1.0, 4.4])]), 3)
        0.1
    """
    if len(first) != len(second) or not first or any(a.shape != b.shape for a, b in zip(first, second)):
        return float('inf')
    largest = 0.0
    for a, b in zip(first, second):
        if a.numel():
            difference = float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny))
            largest = max(largest, difference) if difference == difference else float('inf')
    return largest


@torch.no_grad()
def association_strength(model: nn.Module) -> list[float]:
    """Return |K - W| / |W| of every operator with a generated kernel K and a basic kernel W, in the modules' order.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> association_strength(nn.Sequential(CoCConv2d(4, 4, 3)))
        [0.0]
    """
    operators = [m for m in model.modules() if isinstance(m, GeneratedKernel) and m.weight is not None]
    return [relative_change(operator.kernel(), operator.weight) for operator in operators]


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors in nested lists, tuples and dictionaries, in their order.

    Example:
        >>> [tensor.item() for tensor in tensors_of([torch.tensor(1.0), {'a': (torch.tensor(2.0), torch.tensor(3))}])]
        [1.0, 2.0]
    """
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, dict):
        for value in outputs.values():
            yield from tensors_of(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from tensors_of(value)


def sample_inputs(
    model: nn.Module, shape: tuple[int, int], images: Iterable[Path] = ()
) -> Iterator[tuple[Tensor, list | None]]:
    """Yield a random input, then the images, each with the data samples that a detector needs.

    Args:
        model: its preprocessor is applied to the images.
        shape: height and width of the inputs.
        images: image files.

    Raises:
        FileNotFoundError, ConfigError: as in :func:`mmkerv.deploy.trained_model.read_image`.

    Example:
        >>> inputs, _ = next(sample_inputs(nn.Sequential(nn.Conv2d(3, 8, 3)), (32, 48)))
        >>> inputs.shape
        torch.Size([1, 3, 32, 48])
    """
    generator = torch.Generator().manual_seed(0)
    channels = image_channels(model, shape)
    yield torch.randn(1, channels, *shape, generator=generator), _samples(model, shape)
    for file in images:
        tensor, samples = _resized(file, shape, channels), _samples(model, shape)
        data = {'inputs': tensor[None] if samples is None else [tensor], 'data_samples': samples}
        data = model.data_preprocessor(data, False)
        yield data['inputs'], data['data_samples']


def _resized(file: Path, shape: tuple[int, int], channels: int) -> Tensor:
    """Read an image, (C, H, W), 8 bits: BGR, or grey for a network that takes one channel."""
    import mmcv

    from mmkerv.deploy.trained_model import read_image

    image = mmcv.imresize(read_image(file), shape[::-1])
    return torch.from_numpy(mmcv.bgr2gray(image, keepdim=True) if channels == 1 else image).permute(2, 0, 1)


def image_channels(model: nn.Module, shape: tuple[int, int] = (64, 64)) -> int:
    """Return the number of channels of the images that a model takes.

    It is the length of the preprocessor's mean. One value may stand for all channels; then, and without a mean, it is
    what the first convolution takes, unless something before that folds pixels into channels, as YOLOX does.

    Args:
        model: any network of images, in evaluation mode.
        shape: height and width on which the backbone can be run.

    Example:
        >>> image_channels(nn.Sequential(nn.Conv2d(4, 8, 3)))
        4
    """
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    if mean is not None and mean.numel() > 1:
        return mean.numel()
    first = next((m.in_channels for m in model.modules() if hasattr(m, 'in_channels') and hasattr(m, 'kernel_size')), 3)
    return first if first in (1, 3) or _takes(model, first, shape) else 3


@torch.no_grad()
def _takes(model: nn.Module, channels: int, shape: tuple[int, int]) -> bool:
    """Return whether the backbone, if there is one, runs on an image with so many channels."""
    if not hasattr(model, 'backbone'):
        return True
    parameter = next(model.parameters())
    try:
        model.backbone(parameter.new_zeros(1, channels, *shape))
    except RuntimeError:
        return False
    return True


def _samples(model: nn.Module, shape: tuple[int, int]) -> list | None:
    """Return data samples for a detector, ``None`` for other models."""
    is_detector = (
        type(model).__module__.startswith('mmdet.') or hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')
    )
    if not is_detector:
        return None
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape)
    sample = DetDataSample(metainfo={**meta, 'scale_factor': (1.0, 1.0)})
    # Several detectors unpack annotations even where they only predict.
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    if hasattr(model, 'roi_head') and not hasattr(model, 'rpn_head'):
        sample.proposals = InstanceData(bboxes=_regions(shape))
    return [sample]
