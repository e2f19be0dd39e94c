"""Load a trained model, and an image for it, from file names."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS
from torch import Tensor, nn

from mmkerv.engine.checkpoint.layouts import fitted_names, unwrapped_names, weights_of
from mmkerv.engine.checkpoint.match import require_match
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.config.check import datasets
from mmkerv.engine.config.check_model import check_model
from mmkerv.engine.config.read import load_config
from mmkerv.engine.scope import enter_scope
from mmkerv.errors import ConfigError, UserError
from mmkerv.image_files import MOST_PIXELS, large_images
from mmkerv.utils import bare_network, printable

# Words in the names of transforms that change an image's size or cut it.
GEOMETRY = ('Resize', 'Crop', 'Pad', 'Flip')


def load_trained(
    config: str,
    checkpoint: str | Path | None,
    options: dict[str, Any] | None = None,
    device: str = 'cpu',
    trust: bool = False,
) -> tuple[Config, nn.Module]:
    """Load a config and its model, in evaluation mode on a device, with weights that fit the model completely.

    Args:
        config: config file.
        checkpoint: checkpoint of its model; ``None`` keeps the weights that the model is built with.
        options: as ``--cfg-options``.
        device: name of a torch device.
        trust: as in :func:`mmkerv.engine.safe_load`.

    Raises:
        ConfigError: if torch cannot use the device, an option does not fit, or a part of the network is not on this
            machine.
        CheckpointMismatchError: if the weights do not fit the model.
        FileNotFoundError: if a file does not exist.

    Example:
        >>> cfg, model = load_trained('configs/retinanet_r50_coc.py', 'epoch_12.pth')  # doctest: +SKIP
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f'--device {device!r} cannot be used here: {str(error).splitlines()[0]}. Use --device cpu, or a device '
            'that torch lists'
        ) from error
    cfg = load_config(config, options)
    if checkpoint is None:
        model = built(cfg).eval()
    else:
        model = build_model(cfg, weights_of(safe_load(checkpoint, trust=trust), str(checkpoint)), str(checkpoint))
    return cfg, model.to(device)


def build_model(cfg: Config, state_dict: dict[str, Tensor], source: str) -> nn.Module:
    """Build the model of a config in evaluation mode and load weights that fit it completely.

    Of a model for test-time augmentation, it is the network within.

    Args:
        cfg: config.
        state_dict: weights by name; prefixes of wrappers are removed, see ``mmkerv.engine.checkpoint.layouts``.
        source: name of the weights in messages.

    Raises:
        CheckpointMismatchError: if the weights do not fit.
        ConfigError: if a part of the network is not on this machine.

    Example:
        >>> build_model(cfg, safe_load('epoch_12.pth')['state_dict'], 'epoch_12.pth')  # doctest: +SKIP
    """
    # That of a test with --tta, whose config wraps it.
    model = bare_network(built(cfg))
    state_dict = fitted_names(unwrapped_names(state_dict), model.state_dict(), source)
    require_match(model, state_dict, source)
    model.load_state_dict(state_dict)
    return model.eval()


def built(cfg: Config) -> nn.Module:
    """Build the model of a config for one process, without weights, with the preprocessor that stands beside it.

    Raises:
        ConfigError: if a part of the network is not on this machine, is not registered, or has an unknown key.

    Example:
        >>> built(load_config('configs/retinanet_r50_coc.py'))  # doctest: +SKIP
    """
    enter_scope(cfg)
    check_model(cfg)
    model = copy.deepcopy(cfg.model)
    # As the runner does; mmpretrain's configs have it there.
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    try:
        return revert_sync_batchnorm(MODELS.build(model))
    except UserError:
        raise
    # Parts of the network that are not on this machine: language models, teachers, optional packages.
    except (AssertionError, ImportError, OSError, RuntimeError) as error:
        text = ' '.join(str(error).split()) or 'no reason given'
        raise ConfigError(
            f'the network of the config cannot be built here: {type(error).__name__}: {printable(text, 300)}; install '
            'or download what it names, or replace that part by --cfg-options'
        ) from error


def load_image(
    model: nn.Module, cfg: Config, file: str | Path, canvas: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Read an image through the config's test pipeline and the model's preprocessor.

    Args:
        model: model whose preprocessor is applied.
        cfg: its config.
        file: image file.
        canvas: width and height. Instead of by the pipeline's own steps, the image is resized, with its aspect ratio,
            to the largest size that fits in them, and after the preprocessor padded with zeros on the right or below.

    Returns:
        ``inputs`` (1, C, H, W) on the model's device, and ``data_samples`` as its library needs them.

    Raises:
        FileNotFoundError: if the file does not exist.
        ConfigError: if the file cannot be read as an image, or the config has no test pipeline.

    Example:
        >>> load_image(model, cfg, 'demo.jpg')['inputs'].shape  # doctest: +SKIP
        torch.Size([1, 3, 800, 1216])
    """
    image = read_image(file)
    enter_scope(cfg)
    from mmcv.transforms import Compose

    steps = image_steps(cfg, model)
    if canvas:
        steps = _fitted(steps, image.shape[:2], canvas)
    data = Compose(steps)({'img_path': str(file), 'img_id': 0})
    data = model.data_preprocessor(pseudo_collate([data]), False)
    for sample in data.get('data_samples') or ():
        sample.set_metainfo({'channel_order': 'rgb' if _rgb in steps else 'bgr'})
    return _padded(data, canvas) if canvas else data


def read_image(file: str | Path) -> np.ndarray:
    """Read an image file as the pipelines do, turned as its EXIF data say; return (H, W, 3), 8 bits, BGR.

    Raises:
        FileNotFoundError: if the file does not exist.
        ConfigError: if the file cannot be read as an image, or is too large for OpenCV.

    Example:
        >>> read_image('demo.jpg').shape  # doctest: +SKIP
        (427, 640, 3)
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f'image {str(file)!r} does not exist; give the path of an image file')
    import mmcv

    # OpenCV reads a truncated file without an error, and Pillow some formats that OpenCV does not.
    image = mmcv.imread(str(file)) if _is_image(file) else None
    if image is None:
        raise ConfigError(f'{str(file)!r} cannot be read as an image; give a file that an image viewer opens')
    return image


def image_steps(cfg: Config, model: nn.Module) -> list[dict | Callable]:
    """Return the steps of a config's test pipeline for an image file, without those that load annotations.

    The pipelines of MNIST and CIFAR, whose images are in memory, get a step that reads the file: in grey if the network
    takes one channel, else in RGB, as CIFAR's images are.

    Args:
        cfg: config.
        model: its model.

    Raises:
        ConfigError: if the config has no test pipeline.

    Example:
        >>> [step['type'] for step in image_steps(cfg, model)]  # doctest: +SKIP
        ['LoadImageFromFile', 'Resize', 'PackDetInputs']
    """
    steps: list[dict | Callable] = [step for step in _test_pipeline(cfg) if not is_loading(step, 'Annotation')]
    if not any(is_loading(step) for step in steps):
        gray = next(m.in_channels for m in model.modules() if hasattr(m, 'kernel_size')) == 1
        read = {'type': 'LoadImageFromFile', 'color_type': 'grayscale' if gray else 'color'}
        steps = [read, *([] if gray else [_rgb]), *steps]
    return steps


def is_loading(step: Any, what: str = '') -> bool:
    """Return whether a step of a pipeline reads a file, by its name.

    Example:
        >>> is_loading({'type': 'LoadImageFromFile'}), is_loading({'type': 'LoadImageFromFile'}, 'Annotation')
        (True, False)
    """
    name = str(step['type']).rpartition('.')[2] if isinstance(step, dict) else ''
    return 'Load' in name and what in name


def _rgb(results: dict[str, Any]) -> dict[str, Any]:
    """Turn the BGR of files into the RGB of the images that CIFAR's data sets hold."""
    return {**results, 'img': np.ascontiguousarray(results['img'][..., ::-1])}


def _fitted(steps: list, shape: tuple[int, int], canvas: tuple[int, int]) -> list:
    """Resize to the largest size that fits, in place of the steps that change the image's geometry."""
    factor = min(canvas[0] / shape[1], canvas[1] / shape[0])
    scale = tuple(max(1, round(side * factor)) for side in shape[::-1])
    steps = [step for step in steps if not _changes_geometry(step)]
    read = max(i for i, step in enumerate(steps) if is_loading(step) or step is _rgb)
    return [*steps[: read + 1], {'type': 'Resize', 'scale': scale, 'keep_ratio': False}, *steps[read + 1 :]]


def _changes_geometry(step: Any) -> bool:
    return isinstance(step, dict) and any(word in str(step['type']).rpartition('.')[2] for word in GEOMETRY)


def _padded(data: dict[str, Any], canvas: tuple[int, int]) -> dict[str, Any]:
    width, height = canvas
    inputs = data['inputs']
    # The preprocessor may have padded beyond the canvas, to a multiple of 32.
    right, below = max(0, width - inputs.shape[3]), max(0, height - inputs.shape[2])
    inputs = nn.functional.pad(inputs, (0, right, 0, below))
    for sample in data['data_samples']:
        sample.set_metainfo({'img_shape': (height, width), 'batch_input_shape': tuple(inputs.shape[2:])})
    return {**data, 'inputs': inputs}


def _is_image(file: str | Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with large_images(), Image.open(file) as image:
            image.load()
    except Image.DecompressionBombError as error:
        raise ConfigError(
            f'{str(file)!r} has more than {MOST_PIXELS} pixels, which OpenCV does not read; cut it into tiles'
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError):
        return False
    return True


def _test_pipeline(cfg: Config) -> list[dict]:
    found = (dataset for phase in ('test', 'val') for dataset in datasets(cfg.get(f'{phase}_dataloader'), phase))
    pipelines = (dataset['pipeline'] for _, dataset in found if dataset.get('pipeline'))
    pipeline = next(pipelines, None) or cfg.get('test_pipeline')
    if not pipeline:
        raise ConfigError('the config has no test_dataloader.dataset.pipeline to read an image with; add one')
    return list(pipeline)


def dataset_meta(cfg: Config, checkpoint: str | Path | None = None, trust: bool = False) -> dict[str, Any]:
    """Return what the checkpoint, or else the config's test set, says on the categories: ``classes``, ``palette``.

    A key is absent if neither knows it.

    Args:
        cfg: config.
        checkpoint: checkpoint of its model.
        trust: as in :func:`mmkerv.engine.safe_load`.

    Example:
        >>> dataset_meta(cfg, 'epoch_12.pth')['classes'][:2]  # doctest: +SKIP
        ['person', 'bicycle']
    """
    saved = {}
    if checkpoint is not None:
        loaded = safe_load(checkpoint, trust=trust)
        saved = (loaded.get('meta') or {}).get('dataset_meta') or {} if 'state_dict' in loaded else {}
    found = (part for phase in ('test', 'val') for part in datasets(cfg.get(f'{phase}_dataloader'), phase))
    _, dataset = next(found, ('', {}))
    enter_scope(cfg)
    kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
    known: dict[str, Any] = {}
    for part in (getattr(kind, 'METAINFO', None), dataset.get('metainfo'), {'classes': dataset.get('classes')}, saved):
        lists = {
            key.lower(): value for key, value in (part or {}).items() if isinstance(value, (list, tuple)) and value
        }
        if 'classes' in lists and list(lists['classes']) != known.get('classes'):
            # The colours of other classes.
            known.pop('palette', None)
        known |= {key: list(lists[key]) for key in ('classes', 'palette') if key in lists}
    return known


def class_name(label: int, names: Sequence[str] | None) -> str:
    """Return the name of a class, or for example ``'category 7'`` if it has none.

    Example:
        >>> class_name(0, ['car']), class_name(7, None)
        ('car', 'category 7')
    """
    return names[label] if names and label < len(names) else f'category {label}'
