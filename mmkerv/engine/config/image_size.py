"""Another size of the images of a config: what resizes, crops and pads is scaled, and every change is told."""

import re
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from mmkerv.engine.config.check import datasets, loaders
from mmkerv.errors import ConfigError

# Transforms with a size, by name, and their arguments that hold sizes in pixels.
SIZED = re.compile(r'Resize|Crop|Pad|Mosaic|MixUp|RandomAffine')
KEYS = ('scale', 'scales', 'img_scale', 'crop_size', 'size', 'max_size', 'padding', 'border')
# Without one of these, an image keeps its size.
RESIZES = re.compile(r'Resize|Mosaic|EfficientNet')
# Of a crop whose size is drawn, or a share of the image.
DRAWN = ('relative', 'relative_range', 'absolute_range')
# Of the model: preprocessor, its augmentations, sliding windows, position embeddings.
MODEL_KEYS = ('size', 'random_size_range', 'crop_size', 'stride', 'img_size')
MODEL_PARTS = ('data_preprocessor', 'test_cfg')


def set_image_size(cfg: Config, size: int) -> list[str]:
    """Scale the images of a config in place.

    The size of a config is the longer side of the crops it trains on, or, without crops, of the images that it is
    evaluated on. All sizes in pixels are multiplied by the same factor: of resizing, crops and padding in all
    pipelines, of the preprocessor and sliding windows, and ``img_size`` of the backbone.

    Args:
        cfg: config.
        size: new size in pixels, > 0.

    Returns:
        What was changed, in words.

    Raises:
        ConfigError: if a pipeline does not resize, or has no size in pixels.

    Example:
        >>> pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1333, 800), keep_ratio=True)]
        >>> loader = dict(dataset=dict(type='CocoDataset', pipeline=pipeline))
        >>> set_image_size(Config(dict(train_dataloader=loader)), 640)
        ['train_dataloader.dataset.pipeline.1.scale (1333, 800) -> (640, 384)']
    """
    pipelines = list(_pipelines(cfg))
    for place, pipeline in pipelines:
        if not any(RESIZES.search(str(transform.get('type'))) for transform in _transforms(pipeline)):
            raise ConfigError(
                f'--img-size: {place} does not resize, so images keep their size. Add dict(type="Resize", '
                f'scale=({size}, {size})) after the transform that loads them'
            )
    old = _size(dict(pipelines))
    if old is None:
        raise ConfigError('--img-size: no pipeline of the config has a size in pixels; set the size in the config')
    factor, seen, changes = size / old, set(), []
    data = [part for phase in ('train', 'val', 'test') for part in loaders(cfg, phase)]
    for place, node in (*data, *((key, cfg.get(key)) for key in ('custom_hooks', 'tta_pipeline'))):
        _scale(node, place, factor, seen, changes)
    for place in ('data_preprocessor', 'model'):
        _scale_model(cfg.get(place), place, place == 'data_preprocessor', factor, seen, changes)
    return changes


def _pipelines(cfg: Config) -> Iterator[tuple[str, list]]:
    for phase in ('train', 'val', 'test'):
        for key, loader in loaders(cfg, phase):
            # Mosaic and the like load several images by an outer data set with a pipeline of its own.
            node, place = loader.get('dataset'), f'{key}.dataset'
            outer = node.get('pipeline') if isinstance(node, dict) and 'dataset' in node else None
            if outer:
                yield f'{place}.pipeline', outer
                continue
            for name, dataset in datasets(loader, key):
                if dataset.get('pipeline'):
                    yield f'{name}.pipeline', dataset['pipeline']


def _transforms(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        if 'type' in node:
            yield node
        for value in node.values():
            yield from _transforms(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _transforms(value)


def _size(pipelines: dict[str, list]) -> int | None:
    """Return the longer side of the crops of train, or of what is evaluated."""
    train = [transform for place, pipeline in pipelines.items() if place.startswith('train') for transform in pipeline]
    for transform in reversed(train):
        kind, crop = str(transform.get('type')), transform.get('crop_size')
        is_fixed = 'Crop' in kind and transform.get('crop_type', 'absolute') not in DRAWN
        if is_fixed and (found := _longest(crop if crop is not None else transform.get('scale'))):
            return found
    rest = [
        transform for place, pipeline in pipelines.items() if not place.startswith('train') for transform in pipeline
    ]
    for transform in (*rest, *_transforms(train)):
        is_resized = 'Resize' in str(transform.get('type'))
        if is_resized and (found := _longest(transform.get('scale', transform.get('scales')))):
            return found
    return None


def _longest(value: Any) -> int | None:
    if isinstance(value, (list, tuple)):
        return max((found for found in map(_longest, value) if found), default=None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else None


def _scale(node: Any, place: str, factor: float, seen: set[int], changes: list[str]) -> None:
    """Scale the sizes of all transforms below a node; one that is used twice, once."""
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    elif not isinstance(node, dict) or id(node) in seen:
        return
    else:
        seen.add(id(node))
        if SIZED.search(str(node.get('type'))) and node.get('crop_type') not in ('relative', 'relative_range'):
            _scale_keys(node, place, KEYS, factor, changes)
    for key, value in node.items():
        if isinstance(value, (dict, list, tuple)):
            _scale(value, f'{place}.{key}', factor, seen, changes)


def _scale_model(node: Any, place: str, sized: bool, factor: float, seen: set[int], changes: list[str]) -> None:
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    elif not isinstance(node, dict) or id(node) in seen:
        return
    else:
        seen.add(id(node))
        _scale_keys(node, place, MODEL_KEYS if sized else ('img_size',), factor, changes)
    for key, value in node.items():
        if isinstance(value, (dict, list, tuple)):
            inner = sized or key in MODEL_PARTS
            _scale_model(value, f'{place}.{key}', inner, factor, seen, changes)


def _scale_keys(node: dict, place: str, keys: tuple[str, ...], factor: float, changes: list[str]) -> None:
    for key in keys:
        old = node.get(key)
        if old is not None and (new := _scaled(old, factor)) != old:
            changes.append(f'{place}.{key} {old} -> {new}')
            node[key] = new


def _scaled(value: Any, factor: float) -> Any:
    """Scale sizes: whole numbers beyond 1; others are shares, or mean that nothing is fixed."""
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled(item, factor) for item in value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) <= 1:
        return value
    return round(value * factor) or 1
