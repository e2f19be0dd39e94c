"""Images of the test data with what a network of any of the three libraries predicts."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch import nn

from mmkerv.analysis.speed import data_sets
from mmkerv.cli.report.scenes import Panel, Scene, detect_scenes, opened, scene
from mmkerv.engine.config.evaluation import DETECTION
from mmkerv.engine.scope import library_of
from mmkerv.ops import frozen_kernels

# Lowest score of a box that is shown, and share of the image in a picture of classes.
THRESHOLD, BLEND = 0.3, 0.45
# Panels beside each other.
COLUMNS = 3


def predicted_scenes(cfg: Config, model: nn.Module, count: int) -> list[Scene]:
    """Return the first images of the test data with the ground truth and the predictions of a network.

    Args:
        cfg: config of the network.
        model: the network in evaluation mode.
        count: number of images.

    Raises:
        ConfigError: if the data does not exist.

    Example:
        >>> predicted_scenes(cfg, model, 4)[0].panels[1].title  # doctest: +SKIP
        'prediction'
    """
    library = library_of(cfg)
    if library in DETECTION:
        # Checks that the data are there.
        data_sets(cfg, 'test')
        return detect_scenes(cfg, {'prediction': model}, count, THRESHOLD)
    dataset = data_sets(cfg, 'test')[0]
    indices = range(min(count, len(dataset)))
    with frozen_kernels(model):
        if library == 'mmseg':
            return [_segmented(dataset, model, index) for index in indices]
        panels = [_classified(dataset, model, index) for index in indices]
    rows = (panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS))
    return [Scene('test images', b'', row[0][1], row[0][2], [panel for panel, *_ in row]) for row in rows]


@torch.no_grad()
def _predicted(dataset: Any, model: nn.Module, index: int) -> Any:
    return model.test_step(pseudo_collate([dataset[index]]))[0]


def _segmented(dataset: Any, model: nn.Module, index: int) -> Scene:
    predicted = _predicted(dataset, model, index)
    file = Path(predicted.img_path)
    image = opened(file)
    names, palette = dataset.metainfo['classes'], dataset.metainfo.get('palette') or []
    panels = []
    for title, key in (('ground truth', 'gt_sem_seg'), ('prediction', 'pred_sem_seg')):
        if key in predicted:
            classes = getattr(predicted, key).data.squeeze(0).cpu().numpy().astype(np.uint8)
            caption = ', '.join(names[i] for i in np.unique(classes) if i < len(names)) or 'nothing'
            panels.append(Panel(title, [], caption, _jpeg(overlay(image, classes, palette))))
    return scene(file, panels)


def overlay(image: Image.Image, classes: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    """Return an image under the colours of its classes; 255, which is no class, stays as it is.

    Args:
        image: the image.
        classes: (H, W), of any size.
        palette: colour of each class; colours are chosen for those that have none.

    Example:
        >>> overlay(Image.new('RGB', (4, 2)), np.array([[0, 255]], np.uint8), [(100, 0, 0)]).getpixel((0, 0))
        (55, 0, 0)
    """
    resized = np.asarray(Image.fromarray(classes).resize(image.size, Image.Resampling.NEAREST))
    colours = np.random.default_rng(0).integers(40, 256, (256, 3)).astype(np.float32)
    colours[: len(palette)] = np.asarray(palette, np.float32).reshape(-1, 3)[:256]
    pixels = np.asarray(image, np.float32)
    mixed = BLEND * pixels + (1 - BLEND) * colours[resized]
    return Image.fromarray(np.where(resized[..., None] == 255, pixels, mixed).round().astype(np.uint8))


def _classified(dataset: Any, model: nn.Module, index: int) -> tuple[Panel, int, int]:
    """Return an image with its class and the predicted one, its width and its height."""
    predicted = _predicted(dataset, model, index)
    info = dataset.get_data_info(index)
    if info.get('img_path'):
        image = opened(info['img_path'])
    else:
        # MNIST and CIFAR hold their images in memory.
        image = Image.fromarray(np.asarray(info['img']).squeeze()).convert('RGB')
    names = dataset.metainfo.get('classes') or getattr(dataset, 'CLASSES', None) or ()
    labels = [int(label.flatten()[0]) for label in (predicted.gt_label, predicted.pred_label)]
    truth, guess = (names[label] if label < len(names) else str(label) for label in labels)
    score = float(predicted.pred_score.max())
    caption = f'{truth}, predicted {guess} {score:.2f}'
    return Panel('right' if labels[0] == labels[1] else 'wrong', [], caption, _jpeg(image)), *image.size


def _jpeg(image: Image.Image, largest: int = 480) -> bytes:
    small = image.copy()
    small.thumbnail((largest, largest))
    buffer = io.BytesIO()
    small.save(buffer, 'JPEG', quality=88, optimize=True)
    return buffer.getvalue()
