"""Feature maps of the layers of a model, and their pictures."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.visualization import Visualizer
from torch import Tensor, nn

from mmkerv.errors import ConfigError
from mmkerv.models.layers import find_layers
from mmkerv.models.stages import find_stages
from mmkerv.visualization.pictures import valid_size

REDUCTIONS = ('squeeze_mean', 'select_max', 'none')
# Panels in a row.
COLUMNS = 4


def split_name(name: str) -> tuple[str, int | None]:
    """Split the name of a map into the layer and the index of the map: ``'neck:2'`` is the third map of ``neck``.

    Example:
        >>> split_name('neck:2'), split_name('backbone.layer4')
        (('neck', 2), ('backbone.layer4', None))
    """
    match = re.fullmatch(r'(.+):(-?\d+)', name)
    return (match[1], int(match[2])) if match else (name, None)


@contextmanager
def recording(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Record every feature map (N, C, H, W) that the layers return inside the block, in the order of their calls.

    The network continues with copies of the maps, so in-place operations do not change the recorded ones, and gradients
    flow through them.

    Args:
        model: any module.
        names: layers, as in :func:`mmkerv.models.layers.find_layers`.

    Raises:
        ConfigError: if the model does not have a layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
        >>> with recording(net, ['0']) as maps:
        ...     _ = net(torch.randn(1, 3, 8, 8))
        >>> maps['0'][0].shape
        torch.Size([1, 4, 6, 6])
    """
    layers = find_layers(model, names)
    maps: dict[str, list[Tensor]] = {name: [] for name in layers}

    def hook(name: str):
        return lambda module, args, output: _keep(output, maps[name])

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def select_maps(recorded: dict[str, list[Tensor]], names: Sequence[str], images: int) -> dict[str, Tensor]:
    """Return the recorded maps with the given names, by their full names.

    Args:
        recorded: maps from :func:`recording`.
        names: as in :func:`split_name`; a layer without an index means all its maps.
        images: number of images; maps of a different number, such as those of regions, are ignored.

    Raises:
        ConfigError: if a layer returned no such map.

    Example:
        >>> list(select_maps({'neck': [torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)]}, ['neck'], 1))
        ['neck:0', 'neck:1']
    """
    selected = {}
    for full in names:
        name, index = split_name(full)
        name = name if name in recorded else name.removeprefix('model.')
        maps = [m for m in recorded[name] if len(m) == images]
        if not maps:
            raise ConfigError(
                f'--target-layers: layer {name!r} returns no feature map (N, C, H, W) of the image; name a layer '
                'before the one that flattens or splits it, such as backbone'
            )
        if index is not None and not -len(maps) <= index < len(maps):
            raise ConfigError(
                f'--target-layers: layer {name!r} returns {len(maps)} feature maps, and {full!r} is not one of them; '
                f'use {name}:0 to {name}:{len(maps) - 1}'
            )
        for i in range(len(maps)) if index is None else [index % len(maps)]:
            selected[name if len(maps) == 1 else f'{name}:{i}'] = maps[i]
    return selected


def forward(model: nn.Module, inputs: Tensor, samples: list | None = None) -> Any:
    """Return a model's raw outputs for inputs (N, C, H, W), with gradients; for a segmentor, logits (N, K, H, W).

    Example:
        >>> forward(model, torch.rand(1, 3, 224, 224)).shape  # doctest: +SKIP
        torch.Size([1, 1000])
    """
    if hasattr(model, 'encode_decode'):
        size = tuple(inputs.shape[2:])
        metas = [dict(sample.metainfo) for sample in samples or []] or [{'img_shape': size}] * len(inputs)
        return model.encode_decode(inputs, [{**meta, 'pad_shape': size} for meta in metas])
    return model(inputs, samples, mode='tensor')


def feature_maps(
    model: nn.Module, inputs: Tensor, samples: list | None = None, names: Sequence[str] = ('backbone',)
) -> dict[str, Tensor]:
    """Return maps (N, C, H, W) of layers by name; several maps of a layer are ``'name:0'``, ``'name:1'`` and so on.

    Args:
        model: model of any of the three libraries.
        inputs: preprocessed images (N, C, H, W).
        samples: data samples of the images; only detectors need them, for layers after the backbone.
        names: layers; an index after a colon, as in ``'backbone:-1'``, selects one of several maps.

    Raises:
        ConfigError: if the model does not have a layer, or the layer returns no feature map.

    Example:
        >>> maps = feature_maps(model, inputs, samples, ['backbone', 'neck:0'])  # doctest: +SKIP
    """
    layers = [split_name(name)[0] for name in names]
    with recording(model, layers) as recorded:
        if all(name.split('.')[0] == 'backbone' for name in recorded):
            model.backbone(inputs)
        else:
            forward(model, inputs, samples)
    return select_maps(recorded, names, len(inputs))


@torch.no_grad()
def stage_maps(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the names of the backbone's maps: ``['backbone']`` if it returns one of each stage, else the stages.

    A classifier's backbone returns the map of its last stage alone. A backbone in which no stages are found, or that
    returns no map, gives what :func:`last_map` does.

    Raises:
        ConfigError: if no layer of the backbone returns feature maps.

    Example:
        >>> stage_maps(model, torch.rand(1, 3, 64, 64))  # doctest: +SKIP
        ['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4']
    """
    finished = _finished(model, inputs)
    stages = find_stages(model, [name for name, _ in finished]) or {}
    # Of the modules of a stage, the stage itself ends last.
    ends = {stages[name]: name for name, _ in finished if stages.get(name)}
    returned = finished[-1][1] if finished[-1][0] == 'backbone' else 0
    if returned >= max(len(ends), 1) or not ends:
        return [split_name(_last(finished))[0]]
    return [ends[number] for number in sorted(ends)]


@torch.no_grad()
def last_map(model: nn.Module, inputs: Tensor) -> str:
    """Return the name of the backbone's last feature map, ``'backbone:-1'``, or of its last layer that returns one.

    The latter is for backbones that return a vector, such as LeNet-5.

    Raises:
        ConfigError: if no layer of the backbone returns feature maps.

    Example:
        >>> last_map(model, torch.rand(1, 3, 64, 64))  # doctest: +SKIP
        'backbone:-1'
    """
    return _last(_finished(model, inputs))


def _last(finished: list[tuple[str, int]]) -> str:
    name = finished[-1][0]
    return 'backbone:-1' if name == 'backbone' else name


def _finished(model: nn.Module, inputs: Tensor) -> list[tuple[str, int]]:
    """Return the layers of the backbone that return maps, in the order in which they end, with the number of maps."""
    if not isinstance(getattr(model, 'backbone', None), nn.Module):
        raise ConfigError(f'the model ({type(model).__name__}) has no backbone; give --target-layers')
    finished: list[tuple[str, int]] = []

    def hook(name: str):
        def note(module: nn.Module, args: tuple, output: Any) -> None:
            _keep(output, kept := [])
            if kept:
                finished.append((name, len(kept)))

        return note

    names = {module: f'backbone.{name}'.rstrip('.') for name, module in model.backbone.named_modules()}
    handles = [module.register_forward_hook(hook(name)) for module, name in names.items()]
    try:
        model.backbone(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not finished:
        raise ConfigError(f'the backbone ({type(model.backbone).__name__}) returns no feature maps (N, C, H, W)')
    return finished


def draw_feature_map(
    feature: Tensor, picture: np.ndarray, reduction: str = 'squeeze_mean', topk: int = 20, alpha: float = 0.5
) -> list[tuple[str, np.ndarray]]:
    r"""Draw a map (C, H, W) over an image (H', W', 3); return titles and images.

    ``squeeze_mean`` draws the mean over the channels, ``select_max`` the channel of the largest sum, ``none`` the
    ``topk`` channels of the largest sums, with mmengine's ``Visualizer.draw_featmap``. Channels are selected before
    they are enlarged, so that maps with thousands of channels fit in memory.

    Args:
        feature: map of the image without padding.
        picture: image, RGB.
        reduction: one of ``REDUCTIONS``.
        topk: largest number of channels of ``none``, >= 1.
        alpha: weight of the image, in [0, 1].

    Example:
        >>> drawn = draw_feature_map(torch.rand(8, 4, 4), np.zeros((32, 32, 3), np.uint8), 'none', topk=2)
        >>> len(drawn), drawn[0][1].shape
        (2, (32, 32, 3))
    """
    if reduction == 'squeeze_mean':
        planes = {f'mean of {len(feature)} channels': feature.mean(0)}
    else:
        count = min(topk if reduction == 'none' else 1, len(feature))
        best = feature.sum((1, 2)).topk(count).indices.tolist()
        planes = {f'channel {index}': feature[index] for index in best}
    drawn = []
    for title, plane in planes.items():
        large = F.interpolate(plane[None, None].detach().float(), picture.shape[:2], mode='bilinear')[0]
        drawn.append((title, Visualizer.draw_featmap(large, picture, channel_reduction='squeeze_mean', alpha=alpha)))
    return drawn


def layout(
    maps: dict[str, Tensor],
    picture: np.ndarray,
    reduction: str = 'squeeze_mean',
    topk: int = 4,
    arrangement: tuple[int, int] = (1, 4),
) -> list[list[tuple[str, np.ndarray]]]:
    r"""Arrange the image and its maps in rows of titles and images, for :func:`mmkerv.visualization.pictures.panels`.

    Args:
        maps: (C, H, W), by name.
        picture: image, RGB.
        reduction: as in :func:`draw_feature_map`.
        topk: as in :func:`draw_feature_map`.
        arrangement: rows and columns of the channels of each map, for ``'none'``.

    Example:
        >>> rows = layout({'neck': torch.rand(8, 4, 4)}, np.zeros((32, 32, 3), np.uint8))
        >>> [title for row in rows for title, _ in row]
        ['image', 'neck\nmean of 8 channels']
    """
    drawn = {name: draw_feature_map(feature, picture, reduction, topk) for name, feature in maps.items()}
    titled = {name: [(f'{name}\n{title}', image) for title, image in row] for name, row in drawn.items()}
    if reduction != 'none':
        return _wrapped([('image', picture), *(row[0] for row in titled.values())], COLUMNS)
    rows = [[('image', picture)]]
    for row in titled.values():
        rows += _wrapped(row[: arrangement[0] * arrangement[1]], arrangement[1])
    return rows


def without_padding(feature: Tensor, inputs: Tensor, sample: Any = None) -> Tensor:
    """Return the part of a map (C, h, w) that covers the image, without the preprocessor's padding of the inputs.

    Example:
        >>> without_padding(torch.zeros(4, 8, 8), torch.zeros(1, 3, 64, 64)).shape
        torch.Size([4, 8, 8])
    """
    height, width = valid_size(inputs, sample)
    rows = max(round(feature.shape[1] * height / inputs.shape[2]), 1)
    columns = max(round(feature.shape[2] * width / inputs.shape[3]), 1)
    return feature[:, :rows, :columns]


def _keep(output: Any, kept: list[Tensor]) -> Any:
    """Append the maps in a layer's output to a list, and return the output with copies of them."""
    if isinstance(output, Tensor) and output.ndim == 4:
        kept.append(output)
        return output.clone()
    if type(output) in (list, tuple):
        return type(output)(_keep(item, kept) for item in output)
    return output


def _wrapped(row: list, width: int) -> list[list]:
    return [row[start : start + width] for start in range(0, len(row), width)]
