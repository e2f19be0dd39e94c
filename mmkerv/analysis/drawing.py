"""Images with annotations or predictions, drawn by the visualizer of a config's library."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.visualization import Visualizer

from mmkerv.deploy.trained_model import class_name
from mmkerv.engine.scope import enter_scope, library_of
from mmkerv.ops.core.arguments import ceil_div

# Pixels: a side on which the name of a class is readable, the height of a drawn sequence.
READABLE, BAND_HEIGHT = 224, 64
# Of the colours of a map of classes.
OPACITY = 0.55
_NUMBERS = itertools.count()
# Visualizers of configs without one; the others have mmpretrain's.
USUAL = {
    'mmdet': 'mmdet.DetLocalVisualizer',
    'mmrotate': 'mmrotate.RotLocalVisualizer',
    'mmseg': 'mmseg.SegLocalVisualizer',
}


def visualizer_of(cfg: Config) -> Any:
    """Build the visualizer of a config, without the backends that would write to the folder of a run.

    Example:
        >>> visualizer_of(cfg)  # doctest: +SKIP
        DetLocalVisualizer
    """
    enter_scope(cfg)
    usual = {'type': USUAL.get(library_of(cfg), 'mmpretrain.UniversalVisualizer')}
    for settings in (cfg.get('visualizer') or usual, usual):
        # The registry returns the older visualizer of a name.
        name = f'mmkerv_drawing_{next(_NUMBERS)}'
        visualizer = VISUALIZERS.build({**settings, 'vis_backends': None, 'name': name})
        # mmengine's own visualizer draws no samples.
        if hasattr(visualizer, 'visualize_cls') or type(visualizer).add_datasample is not Visualizer.add_datasample:
            break
    return visualizer


def readable(meta: Mapping[str, Any], count: int = 0) -> dict[str, Any]:
    """Return ``classes`` and ``palette`` as every visualizer takes them.

    Args:
        meta: as :func:`mmkerv.deploy.trained_model.dataset_meta` returns it.
        count: least number of classes; those without a name get one, and without colours for all, colours are chosen.

    Example:
        >>> readable({'classes': ['cat'], 'palette': [[220, 20, 60]]})
        {'classes': ['cat'], 'palette': [(220, 20, 60)]}
        >>> readable({}, 2)['classes']
        ['category 0', 'category 1']
    """
    classes, palette = meta.get('classes') or [], meta.get('palette') or []
    classes = [class_name(label, classes) for label in range(max(count, len(classes)))]
    if len(palette) < len(classes):
        palette = np.random.default_rng(0).integers(40, 256, (len(classes), 3)).tolist()
    return {'classes': classes, 'palette': [tuple(colour) for colour in palette]}


def draw(
    visualizer: Any,
    image: np.ndarray,
    sample: Any,
    meta: Mapping[str, Any],
    predicted: bool = False,
    least: float = 0.0,
) -> np.ndarray:
    """Draw the annotations of a sample on its image, or its predictions.

    Args:
        visualizer: see :func:`visualizer_of`.
        image: (H, W, 3), uint8, RGB. Small ones of classifiers, and with predictions, are enlarged, so that names can
            be read.
        sample: data sample of the library; ``None`` draws nothing.
        meta: ``classes`` and ``palette`` of the data.
        predicted: whether to draw the predictions.
        least: lowest score of an instance that is drawn.

    Returns:
        (H', W', 3), uint8, RGB.

    Example:
        >>> draw(visualizer, image, sample, {'classes': ['cat'], 'palette': [(220, 20, 60)]}).dtype  # doctest: +SKIP
        dtype('uint8')
    """
    what = {'draw_gt': not predicted, 'draw_pred': predicted}
    if hasattr(visualizer, 'visualize_cls'):
        image = _enlarged(image)
        if sample is not None:
            return visualizer.visualize_cls(image, sample, classes=meta.get('classes'), **what)
    if sample is None:
        return image
    if not predicted and 'gt_instances' in sample:
        # The visualizer draws tensors and arrays, not the box and mask classes of the pipeline.
        instances = sample.gt_instances
        boxes, masks = instances.get('bboxes'), instances.get('masks')
        if boxes is not None and not isinstance(boxes, torch.Tensor):
            instances.bboxes = boxes.tensor
        if masks is not None:
            instances.masks = masks.to_ndarray().astype(bool)
    if predicted:
        image, sample = _magnified(image, sample, ceil_div(READABLE, min(image.shape[:2])))
        if 'pred_sem_seg' in sample:
            # So that the image can be seen below the classes.
            visualizer.alpha = OPACITY
    visualizer.dataset_meta = meta
    drawn = []
    # Replaces the call that passes the picture to the backends.
    visualizer.add_image = lambda name, image, step=0: drawn.append(image)
    lowest = {'pred_score_thr': least} if predicted and 'pred_instances' in sample else {}
    visualizer.add_datasample('sample', image, sample, show=False, **what, **lowest)
    return drawn[0]


def _enlarged(image: np.ndarray) -> np.ndarray:
    """An image that is large enough for the name of a class; a sequence becomes a band."""
    if image.shape[0] == 1:
        return image.repeat(BAND_HEIGHT, 0)
    factor = ceil_div(READABLE, min(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)


def _magnified(image: np.ndarray, sample: Any, factor: int) -> tuple[np.ndarray, Any]:
    """An image and its predictions, each pixel a square of a number of pixels."""
    sample = sample.clone()
    if 'pred_instances' in sample:
        instances = sample.pred_instances.clone()
        boxes, masks = instances.get('bboxes'), instances.get('masks')
        if boxes is not None:
            instances.bboxes = getattr(boxes, 'tensor', boxes).clone()
            # The fifth number of a rotated box is its angle.
            instances.bboxes[:, :4] *= factor
        if masks is not None:
            instances.masks = _repeated(torch.as_tensor(masks), factor)
        sample.pred_instances = instances
    for name in ('pred_sem_seg', 'pred_panoptic_seg'):
        if name in sample:
            old = sample.get(name)
            fields = {key: _repeated(value, factor) for key, value in old.items()}
            setattr(sample, name, type(old)(metainfo=dict(old.metainfo_items()), **fields))
    return image.repeat(factor, 0).repeat(factor, 1), sample


def _repeated(maps: torch.Tensor, factor: int) -> torch.Tensor:
    return maps.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
