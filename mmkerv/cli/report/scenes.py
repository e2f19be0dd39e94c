"""Images with boxes: the ground truth and the detections of networks."""

import io
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmcv.ops import nms
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from torch import nn

from mmkerv.deploy.trained_model import read_image
from mmkerv.ops import frozen_kernels


class Box(NamedTuple):
    """A box in pixels of the image, with its class; the score of the ground truth is ``None``.

    Args:
        left: left edge.
        top: top edge.
        width: width.
        height: height.
        label: name of the class.
        index: number of the class.
        score: confidence of the detector.

    Example:
        >>> Box(0, 0, 8, 8, 'circle', 0).score is None
        True
    """

    left: float
    top: float
    width: float
    height: float
    label: str
    index: int
    score: float | None = None


class Panel(NamedTuple):
    """One picture of a scene: a title and the boxes to draw, or an image of its own.

    Args:
        title: origin of the boxes.
        boxes: the boxes.
        caption: what is seen, in words, of a panel without boxes.
        jpeg: image to show in place of the scene's.

    Example:
        >>> Panel('ground truth', [Box(0, 0, 8, 8, 'circle', 0), Box(9, 0, 8, 8, 'circle', 0)]).text
        'ground truth: 2 circle'
    """

    title: str
    boxes: list[Box]
    caption: str = ''
    jpeg: bytes = b''

    @property
    def text(self) -> str:
        """Return the panel in words."""
        if self.caption:
            return f'{self.title}: {self.caption}'
        counts = Counter(box.label for box in self.boxes)
        return f'{self.title}: ' + (', '.join(f'{n} {label}' for label, n in sorted(counts.items())) or 'nothing')


class Scene(NamedTuple):
    """An image and its panels.

    Args:
        name: name of the image.
        jpeg: the image.
        width: width of the image in pixels.
        height: height of the image in pixels.
        panels: pictures to draw on the image.

    Example:
        >>> Scene('1.jpg', b'', 160, 160, []).width
        160
    """

    name: str
    jpeg: bytes
    width: int
    height: int
    panels: list[Panel]


def detect_scenes(cfg: Config, models: dict[str, nn.Module], count: int, threshold: float = 0.5) -> list[Scene]:
    """Return the first images of a config's test data with their boxes and the detections of models.

    Args:
        cfg: config with a ``test_dataloader`` of COCO's kind.
        models: detectors in evaluation mode, by title.
        count: number of images.
        threshold: lowest score to show; of boxes of any class that overlap by half, only the best is kept.

    Raises:
        FileNotFoundError: if the data do not exist.

    Example:
        >>> detect_scenes(cfg, {'trained': model}, 4)[0].panels[1].boxes  # doctest: +SKIP
        [Box(left=23.1, top=40.2, width=31.0, height=30.8, label='circle', index=0, score=0.93)]
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    names = dataset.metainfo['classes']
    scenes = []
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(frozen_kernels(model))
        for index in range(min(count, len(dataset))):
            info = dataset.get_data_info(index)
            panels = [Panel('ground truth', [_annotated(instance, names) for instance in info['instances']])]
            batch = pseudo_collate([dataset[index]])
            panels += [Panel(title, _detections(model, batch, names, threshold)) for title, model in models.items()]
            scenes.append(scene(Path(info['img_path']), panels))
    return scenes


def _annotated(instance: dict, names: tuple[str, ...]) -> Box:
    left, top, right, bottom = instance['bbox']
    return Box(left, top, right - left, bottom - top, names[instance['bbox_label']], instance['bbox_label'])


@torch.no_grad()
def _detections(model: nn.Module, batch: dict, names: tuple[str, ...], threshold: float) -> list[Box]:
    detected = model.test_step(batch)[0].pred_instances
    detected = detected[detected.scores >= threshold]
    # Detectors suppress overlapping boxes of one class only; boxes of all classes on one object would hide each other.
    _, kept = nms(detected.bboxes, detected.scores, iou_threshold=0.5)
    detected = detected[kept]
    boxes = []
    columns = (detected[key].tolist() for key in ('bboxes', 'labels', 'scores'))
    for (left, top, right, bottom), label, score in zip(*columns):
        boxes.append(Box(left, top, right - left, bottom - top, names[label], label, score))
    return boxes


def opened(file: str | Path) -> Image.Image:
    """Return an image file in RGB, turned as the pipelines turn it: boxes and classes are found in that image.

    Raises:
        FileNotFoundError, ConfigError: as :func:`mmkerv.deploy.trained_model.read_image`.

    Example:
        >>> opened('1.jpg').mode  # doctest: +SKIP
        'RGB'
    """
    return Image.fromarray(np.ascontiguousarray(read_image(file)[..., ::-1]))


def scene(file: Path, panels: list[Panel], largest: int = 480) -> Scene:
    """Return a scene of an image file.

    Args:
        file: the image.
        panels: pictures to draw on it.
        largest: longest side of the picture, in pixels.

    Example:
        >>> scene(Path('1.jpg'), []).width  # doctest: +SKIP
        160
    """
    small = opened(file)
    width, height = small.size
    small.thumbnail((largest, largest))
    buffer = io.BytesIO()
    small.save(buffer, 'JPEG', quality=88, optimize=True)
    return Scene(file.name, buffer.getvalue(), width, height, panels)
