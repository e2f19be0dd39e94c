"""Size of the images that a network gets, from its config's test pipeline."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from mmkerv.deploy.trained_model import image_steps, is_loading
from mmkerv.engine.config.check import datasets
from mmkerv.engine.scope import enter_scope
from mmkerv.errors import ConfigError

# Arguments by which transforms name a size, width first, and height first.
WIDTH_FIRST, HEIGHT_FIRST = ('scale',), ('crop_size', 'size')


def pipeline_shape(cfg: Config, model: nn.Module) -> tuple[int, int]:
    """Return height and width of the largest image that a model gets from its config's test pipeline.

    The test pipeline and the preprocessor, which may pad, are run on an empty image of the first size that the pipeline
    names; if it names none, as CIFAR's, of the last one that the training's pipeline names, or of the one that the
    network was built for (``img_size``).

    Args:
        cfg: config.
        model: its model.

    Raises:
        ConfigError: if no size is named, or the pipeline needs more than an image.

    Example:
        >>> pipeline_shape(cfg, model)  # doctest: +SKIP
        (800, 1344)
    """
    enter_scope(cfg)
    steps = [step for step in image_steps(cfg, model) if not is_loading(step)]
    built_for = [getattr(module, 'img_size', None) for module in model.modules()]
    shape = next(_named(steps), None) or _of_training(cfg) or next(_shapes(built_for), None)
    if shape is None:
        raise ConfigError('neither the pipelines of the config nor its network name a size: give --shape H W')
    channels = 1 if any('grayscale' in str(step) for step in image_steps(cfg, model)) else 3
    image = np.zeros((*shape, channels) if channels == 3 else shape, np.uint8)
    try:
        data = Compose(steps)({'img': image, 'img_shape': shape, 'ori_shape': shape, 'img_id': 0, 'img_path': ''})
        inputs = model.data_preprocessor(pseudo_collate([data]), False)['inputs']
    except (KeyError, TypeError, AttributeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f'the test pipeline cannot be run on an image alone ({type(error).__name__}: {error}): give --shape H W'
        ) from error
    return tuple(inputs[0].shape[-2:])


def training_shape(cfg: Config, model: nn.Module) -> tuple[int, int]:
    """Return height and width of the images of a training, before padding: the last size that its pipeline names.

    Args:
        cfg: config; the size is that of :func:`pipeline_shape` if its training names none.
        model: its model.

    Raises:
        ConfigError: if no pipeline names a size.

    Example:
        >>> training_shape(cfg, model)  # doctest: +SKIP
        (512, 1024)
    """
    return _of_training(cfg) or pipeline_shape(cfg, model)


def _of_training(cfg: Config) -> tuple[int, int] | None:
    steps = next((d['pipeline'] for _, d in datasets(cfg.get('train_dataloader'), 'train') if d.get('pipeline')), ())
    return next(_named(reversed(list(steps))), None)


def _named(steps: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Yield the sizes that transforms name, as height and width; those of steps within steps too."""
    for step in steps:
        if isinstance(step, dict):
            inner = (value for value in step.values() if isinstance(value, (list, tuple)))
            yield from _shapes(
                size[::-1] if isinstance(size, (list, tuple)) else size for size in _given(step, WIDTH_FIRST)
            )
            yield from _shapes(_given(step, HEIGHT_FIRST))
            yield from _named(part for parts in inner for part in parts)


def _given(step: dict, keys: tuple[str, ...]) -> list[Any]:
    return [step[key] for key in keys if step.get(key)]


def _shapes(sizes: Iterable[Any]) -> Iterator[tuple[int, int]]:
    for size in sizes:
        sides = (size, size) if isinstance(size, int) else size
        if isinstance(sides, (list, tuple)) and len(sides) == 2 and all(type(n) is int and n > 0 for n in sides):
            yield tuple(sides)
