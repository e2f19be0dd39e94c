"""Pictures of the samples of a data set with their annotations, drawn by the visualizer of the config's library."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmengine.config import Config

from mmkerv.analysis.drawing import draw, visualizer_of
from mmkerv.analysis.speed import data_sets
from mmkerv.engine.data_checks.own_files import inner_sample, require_no_data
from mmkerv.errors import ConfigError

MODES = ('transformed', 'original', 'concat', 'pipeline')
# Of files that mmcv writes in colour.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
# Pixels between images beside each other.
GAP = 8


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
        file: name for a file: that of the sample's image, if it has one; a .png if no picture can be written by it.
        image: (H, W, C), uint8, RGB.

    Example:
        >>> Picture('0.jpg', np.zeros((4, 4, 3), np.uint8)).file
        '0.jpg'
    """

    file: str
    image: np.ndarray


def pictures(
    cfg: Config,
    phase: str = 'train',
    mode: str = 'transformed',
    number: int | None = None,
    folder: str | Path | None = None,
) -> Iterator[Picture]:
    """Draw samples of a phase's data set.

    Args:
        cfg: config of a model of one of the three libraries.
        phase: ``'train'``, ``'val'`` or ``'test'``.
        mode: ``'transformed'`` draws the image that the model gets (in its original size if the pipeline leaves the
            annotations in that size, as test pipelines do), ``'original'`` the image as it was read, ``'concat'`` both,
            ``'pipeline'`` the image after every step that changes it.
        number: number of samples; by default all.
        folder: where the pictures will be written.

    Yields:
        One picture for each sample.

    Raises:
        ConfigError: if there is no such data, the mode needs the pipeline and the data set has no access to one, or
            ``folder`` holds images of the data.

    Example:
        >>> next(pictures(cfg, 'val')).file  # doctest: +SKIP
        '000000000139.jpg'
    """
    if mode not in MODES:
        raise ConfigError(f'--mode must be one of {", ".join(MODES)}, got {mode!r}')
    sets, visualizer = data_sets(cfg, phase), visualizer_of(cfg)
    for dataset in sets if folder is not None else ():
        require_no_data(dataset, folder, '--output-dir')
    places = ((dataset, index) for dataset in sets for index in range(len(dataset)))
    for dataset, index in islice(places, number):
        steps = (
            stages(dataset, index)
            if mode != 'transformed'
            else [_last('', dataset[index], _holds_images(*inner_sample(dataset, index)))]
        )
        sample = steps[-1].sample
        if _annotated_late(inner_sample(dataset, index)[0]):
            steps[-1] = steps[-1]._replace(image=mmcv.imresize(steps[-1].image, sample.ori_shape[1::-1]))
        chosen = {'original': steps[:1], 'concat': [steps[0], steps[-1]]}.get(mode, steps)
        file = Path(getattr(sample, 'img_path', None) or f'{index:06d}.jpg')
        file = file if file.suffix.lower() in SUFFIXES else file.with_suffix('.png')
        drawn = [draw(visualizer, stage.image, stage.sample, dataset.metainfo) for stage in chosen]
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
    dataset, index = inner_sample(dataset, index)
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
    is_rgb = _holds_images(dataset, index)
    images = [Stage('read', _rgb(read['img'], is_rgb), _packed(pack, read))]
    results = dataset.get_data_info(index)
    for step in steps:
        # A step may return None to reject a sample, for which training takes another one; here the sample is kept.
        results = step(results) or results
        if 'img' in results and not np.array_equal(images[-1].image, _rgb(results['img'], is_rgb)):
            images.append(Stage(type(step).__name__, _rgb(results['img'], is_rgb), None))
    last = _last(type(pack).__name__, pack(results), is_rgb)
    same = len(images) > 1 and np.array_equal(images[-1].image, last.image)
    return [*(images[:-1] if same else images), last]


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


def _holds_images(dataset: Any, index: int) -> bool:
    """Whether the images are in memory, as those of CIFAR: in RGB, where the steps that read files give BGR."""
    return hasattr(dataset, 'get_data_info') and 'img' in dataset.get_data_info(index)


def _last(name: str, item: dict, is_rgb: bool) -> Stage:
    inputs = item['inputs']
    inputs = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
    sample = item['data_samples']
    sample = sample[0] if isinstance(sample, (list, tuple)) else sample
    return Stage(name, _rgb(inputs.permute(1, 2, 0).contiguous().numpy(), is_rgb), sample)


def _rgb(image: np.ndarray, is_rgb: bool) -> np.ndarray:
    """An image in RGB, BGR or grey, of any type, as 8-bit RGB."""
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if low < 0 or high <= 1 or high > 255:
            image = (image - low) / max(high - low, 1e-12) * 255
        image = image.round().clip(0, 255).astype(np.uint8)
    if image.shape[2] == 1:
        return np.repeat(image, 3, 2)
    return np.ascontiguousarray(image[..., :3] if is_rgb else image[..., 2::-1])


def _side_by_side(images: list[np.ndarray]) -> np.ndarray:
    height = max(len(image) for image in images)
    padded = [np.pad(i, ((0, height - len(i)), (0, GAP), (0, 0)), constant_values=255) for i in images]
    return np.concatenate(padded, 1)[:, :-GAP]
