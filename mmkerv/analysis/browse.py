"""Pictures of the samples of a data set with their annotations, drawn by the visualizer of the config's library."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import VISUALIZERS

from mmkerv.analysis.speed import data_sets
from mmkerv.engine.scope import enter_scope
from mmkerv.errors import ConfigError
from mmkerv.ops.core.arguments import ceil_div

MODES = ('transformed', 'original', 'concat', 'pipeline')
# Pixels: a side on which the name of a class is readable, the height of a drawn sequence, a gap between images.
READABLE, BAND_HEIGHT, GAP = 224, 64, 8


class Stage(NamedTuple):
    """Image of a sample after a step of the pipeline.

    Args:
        name: name of the step.
        image: (H, W, C), uint8, RGB.
        sample: data sample of the library if its annotations belong to this image, else ``None``.

    Example:
        >>> Stage('LoadImageFromFile', np.zeros((4, 4, 3), np.uint8), None).name
        'LoadImageFromFile'
    """

    name: str
    image: np.ndarray
    sample: Any


class Picture(NamedTuple):
    """Drawn sample.

    Args:
        file: name for a file: that of the sample's image, if it has one.
        image: (H, W, C), uint8, RGB.

    Example:
        >>> Picture('0.jpg', np.zeros((4, 4, 3), np.uint8)).file
        '0.jpg'
    """

    file: str
    image: np.ndarray


def pictures(
    cfg: Config, phase: str = 'train', mode: str = 'transformed', number: int | None = None
) -> Iterator[Picture]:
    """Draw samples of a phase's data set.

    Args:
        cfg: config of a model of one of the three libraries.
        phase: ``'train'``, ``'val'`` or ``'test'``.
        mode: ``'transformed'`` draws the image that the model gets (in its original size if the pipeline leaves the
            annotations in that size, as test pipelines do), ``'original'`` the image as it was read, ``'concat'`` both,
            ``'pipeline'`` the image after every step that changes it.
        number: number of samples; by default all.

    Yields:
        One picture for each sample.

    Raises:
        ConfigError: if there is no such data, or the mode needs the pipeline and the data set has no access to one.

    Example:
        >>> next(pictures(cfg, 'val')).file  # doctest: +SKIP
        '000000000139.jpg'
    """
    if mode not in MODES:
        raise ConfigError(f'--mode must be one of {", ".join(MODES)}, got {mode!r}')
    sets, visualizer = data_sets(cfg, phase), _visualizer(cfg)
    places = ((dataset, index) for dataset in sets for index in range(len(dataset)))
    for dataset, index in islice(places, number):
        visualizer.dataset_meta = dataset.metainfo
        steps = stages(dataset, index) if mode != 'transformed' else [_last('', dataset[index])]
        sample = steps[-1].sample
        if _annotated_late(_inner(dataset, index)[0]):
            steps[-1] = steps[-1]._replace(image=mmcv.imresize(steps[-1].image, sample.ori_shape[1::-1]))
        chosen = {'original': steps[:1], 'concat': [steps[0], steps[-1]]}.get(mode, steps)
        file = Path(getattr(sample, 'img_path', None) or f'{index:06d}.jpg')
        drawn = [_draw(visualizer, stage, dataset.metainfo) for stage in chosen]
        yield Picture(file.name, _side_by_side(drawn))


def stages(dataset: Any, index: int) -> list[Stage]:
    """Run a sample through the pipeline of its data set, and return its image after every step that changes it.

    The first stage has the image and the annotations as they were read, the last stage those that the model gets; the
    others have no annotations.

    Raises:
        ConfigError: if the data set is a wrapper that hides its pipeline.

    Example:
        >>> [stage.name for stage in stages(dataset, 0)]  # doctest: +SKIP
        ['read', 'Resize', 'PackDetInputs']
    """
    dataset, index = _inner(dataset, index)
    if not hasattr(dataset, 'pipeline') or not hasattr(dataset, 'get_data_info'):
        raise ConfigError(
            f'--mode original, concat and pipeline need a data set with its own pipeline, got '
            f'{type(dataset).__name__}; use --mode transformed'
        )
    *steps, pack = dataset.pipeline.transforms
    # Annotations are often loaded after a resize, so the loading steps are run alone to get the original sample.
    read = dataset.get_data_info(index)
    for step in steps:
        read = (step(read) or read) if type(step).__name__.startswith('Load') else read
    images, results = [Stage('read', _rgb(read['img']), _packed(pack, read))], dataset.get_data_info(index)
    for step in steps:
        # A step may return None to reject a sample, for which training takes another one; here the sample is kept.
        results = step(results) or results
        if 'img' in results and not np.array_equal(images[-1].image, _rgb(results['img'])):
            images.append(Stage(type(step).__name__, _rgb(results['img']), None))
    last = _last(type(pack).__name__, pack(results))
    same = len(images) > 1 and np.array_equal(images[-1].image, last.image)
    return [*(images[:-1] if same else images), last]


def _inner(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set from which a concatenated or repeated one takes a sample, and the sample's index in it."""
    while isinstance(dataset, (ConcatDataset, RepeatDataset)):
        if isinstance(dataset, ConcatDataset):
            part = bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
        else:
            index, dataset = index % len(dataset.dataset), dataset.dataset
    return dataset, index


def _annotated_late(dataset: Any) -> bool:
    """Return ``True`` if annotations are loaded after other steps, as in test pipelines: then they fit the original."""
    names = [type(step).__name__ for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', ())]
    loading = next((index for index, name in enumerate(names) if 'Annotations' in name), 0)
    return any(not name.startswith('Load') for name in names[:loading])


def _packed(pack: Any, results: dict) -> Any:
    """The data sample of results that lack the metadata of later steps."""
    keys = getattr(pack, 'meta_keys', ())
    try:
        pack.meta_keys = tuple(key for key in keys if key in results)
        return pack(dict(results))['data_samples']
    finally:
        pack.meta_keys = keys


def _last(name: str, item: dict) -> Stage:
    inputs = item['inputs']
    inputs = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
    sample = item['data_samples']
    sample = sample[0] if isinstance(sample, (list, tuple)) else sample
    return Stage(name, _rgb(inputs.permute(1, 2, 0).contiguous().numpy()), sample)


def _rgb(image: np.ndarray) -> np.ndarray:
    """An image in BGR or grey, of any type, as 8-bit RGB."""
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if low < 0 or high <= 1 or high > 255:
            image = (image - low) / max(high - low, 1e-12) * 255
        image = image.round().clip(0, 255).astype(np.uint8)
    return np.repeat(image, 3, 2) if image.shape[2] == 1 else np.ascontiguousarray(image[..., 2::-1])


def _draw(visualizer: Any, stage: Stage, meta: dict) -> np.ndarray:
    image, sample = stage.image, stage.sample
    if hasattr(visualizer, 'visualize_cls'):
        image = _enlarged(image)
        if sample is not None:
            return visualizer.visualize_cls(image, sample, classes=meta.get('classes'), draw_pred=False)
    if sample is None:
        return image
    if 'gt_instances' in sample:
        # The visualizer draws tensors and arrays, not the box and mask classes of the pipeline.
        instances = sample.gt_instances
        boxes, masks = instances.get('bboxes'), instances.get('masks')
        if boxes is not None and not isinstance(boxes, torch.Tensor):
            instances.bboxes = boxes.tensor
        if masks is not None:
            instances.masks = masks.to_ndarray().astype(bool)
    drawn = []
    # Replaces the call that passes the picture to the backends.
    visualizer.add_image = lambda name, image, step=0: drawn.append(image)
    visualizer.add_datasample('sample', image, sample, draw_gt=True, draw_pred=False, show=False)
    return drawn[0]


def _enlarged(image: np.ndarray) -> np.ndarray:
    """An image that is large enough for the name of a class; a sequence becomes a band."""
    if image.shape[0] == 1:
        return image.repeat(BAND_HEIGHT, 0)
    factor = ceil_div(READABLE, min(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)


def _side_by_side(images: list[np.ndarray]) -> np.ndarray:
    height = max(len(image) for image in images)
    padded = [np.pad(i, ((0, height - len(i)), (0, GAP), (0, 0)), constant_values=255) for i in images]
    return np.concatenate(padded, 1)[:, :-GAP]


def _visualizer(cfg: Config) -> Any:
    enter_scope(cfg)
    settings = dict(cfg.get('visualizer') or {'type': 'UniversalVisualizer'})
    # Without backends, which would write to the folder of a run.
    settings |= {'vis_backends': None, 'name': 'browse'}
    return VISUALIZERS.build(settings)
