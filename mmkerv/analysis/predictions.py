"""Predictions of a network of any of the three libraries on image files, and their records for a JSON file."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from mmkerv.deploy.trained_model import class_name, image_steps, read_image
from mmkerv.engine.scope import enter_scope
from mmkerv.errors import ConfigError, UserError
from mmkerv.ops import frozen_kernels

# mmdetection numbers the segments of a panoptic map by class + INSTANCE * number.
INSTANCE = 1000
# Errors by which a pipeline refuses an image, such as one that a resize leaves without a row.
REFUSED = (UserError, OSError, ValueError, ZeroDivisionError, cv2.error)


class Prediction(NamedTuple):
    """Prediction on an image.

    Args:
        file: the image file.
        image: (H, W, 3), 8 bits, RGB; ``None`` if it could not be read.
        sample: data sample of the library with the predictions, on the CPU.
        problem: why there is none.

    Example:
        >>> Prediction(Path('a.jpg'), None, None, 'no image').problem
        'no image'
    """

    file: Path
    image: np.ndarray | None
    sample: Any
    problem: str = ''


def distinct_names(files: Sequence[Path]) -> list[str]:
    """Return a name for what is written on each file: its own, with as many folders before it as tell it from others.

    Example:
        >>> distinct_names([Path('/a/x.jpg'), Path('/b/x.jpg'), Path('/b/y.jpg')])
        ['a/x', 'b/x', 'y']
        >>> distinct_names([Path('/a/x.jpg'), Path('/a/x.png')])
        ['x_jpg', 'x_png']
    """
    paths = [(*file.resolve().parts[1:-1], file.stem) for file in files]
    # Some file systems do not tell capitals from small letters.
    count = Counter(map(_folded, paths))
    paths = [
        path if count[_folded(path)] == 1 else (*path[:-1], file.name.replace('.', '_'))
        for path, file in zip(paths, files)
    ]
    seen: Counter[tuple[str, ...]] = Counter()
    for number, path in enumerate(paths):
        seen[_folded(path)] += 1
        if seen[_folded(path)] > 1:
            paths[number] = (*path[:-1], f'{path[-1]}_{seen[_folded(path)]}')
    depths = [1] * len(paths)
    while True:
        count = Counter(_folded(path[-depth:]) for path, depth in zip(paths, depths))
        deeper = [min(depth + (count[_folded(path[-depth:])] > 1), len(path)) for path, depth in zip(paths, depths)]
        if deeper == depths:
            return ['/'.join(path[-depth:]) for path, depth in zip(paths, depths)]
        depths = deeper


def _folded(path: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in path)


def predictions(cfg: Config, model: nn.Module, files: Iterable[Path], batch_size: int = 1) -> Iterator[Prediction]:
    """Yield the prediction on each image file, in their order, or why there is none.

    Images pass through the config's test pipeline. Only those that it makes the same size share a batch, so that the
    results do not depend on its size. Generated kernels are computed once.

    Args:
        cfg: config of the model.
        model: model in evaluation mode, on its device.
        files: image files.
        batch_size: largest number of images of a batch, >= 1.

    Raises:
        ConfigError: if the config has no test pipeline.

    Example:
        >>> next(predictions(cfg, model, [Path('demo.jpg')])).sample.pred_instances.bboxes  # doctest: +SKIP
    """
    enter_scope(cfg)
    pipeline = Compose(image_steps(cfg, model))
    waiting: list[tuple[Path, np.ndarray, dict]] = []
    with frozen_kernels(model):
        for number, file in enumerate(files):
            try:
                image, data = read_image(file), pipeline({'img_path': str(file), 'img_id': number})
            except REFUSED as error:
                yield from _batch(model, waiting)
                waiting = []
                yield Prediction(file, None, None, ' '.join(str(error).split()))
                continue
            if waiting and data['inputs'].shape != waiting[0][2]['inputs'].shape:
                yield from _batch(model, waiting)
                waiting = []
            waiting.append((file, np.ascontiguousarray(image[..., ::-1]), data))
            if len(waiting) == batch_size:
                yield from _batch(model, waiting)
                waiting = []
        yield from _batch(model, waiting)


@torch.no_grad()
def _batch(model: nn.Module, waiting: list[tuple[Path, np.ndarray, dict]]) -> list[Prediction]:
    if not waiting:
        return []
    samples = model.test_step(pseudo_collate([data for _, _, data in waiting]))
    return [Prediction(file, image, sample.cpu()) for (file, image, _), sample in zip(waiting, samples)]


def kept(sample: Any, least: float = 0.0, topk: int | None = None) -> Any:
    """Return a data sample with the instances of the highest scores alone, or the classes, the most probable first.

    Args:
        sample: data sample with predictions.
        least: lowest score of an instance.
        topk: number of classes of a classifier.

    Example:
        >>> kept(sample, 0.3).pred_instances.scores.min()  # doctest: +SKIP
        tensor(0.3017)
    """
    sample = sample.clone()
    if 'pred_instances' in sample and 'scores' in sample.pred_instances:
        sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= least]
    if 'pred_score' in sample and topk is not None:
        sample.set_pred_label(sample.pred_score.topk(min(topk, len(sample.pred_score))).indices)
    return sample


def record(sample: Any, names: Sequence[str] | None = None) -> tuple[dict[str, Any], np.ndarray | None]:
    """Return the predictions of a data sample for a JSON file, and its map of classes.

    Args:
        sample: data sample of a detector, segmentor or classifier, see :func:`kept`.
        names: names of the classes.

    Returns:
        A dict with the keys that the network predicts, and the map, ``None`` if there is none.

        - ``instances``: for each its ``label``, ``class``, ``score``, ``bbox`` (x1, y1, x2, y2) or, of rotated boxes,
          ``rotated_bbox`` (cx, cy, w, h, radians), and ``mask`` as COCO's compressed RLE;
        - ``segments``: for each its ``id`` in the panoptic map, ``label`` and ``class``; the map is (H, W, 3), the id
          being R + 256 G + 65536 B, as COCO has it;
        - ``areas``: for each class of the semantic map its ``label``, ``class`` and share of the ``pixels``; the map is
          (H, W), of labels;
        - ``classes``: for each of the best classes its ``label``, ``class`` and ``probability``.

    Raises:
        ConfigError: if the sample has none of these.

    Example:
        >>> record(sample, ['cat', 'dog'])  # doctest: +SKIP
        ({'classes': [{'label': 1, 'class': 'dog', 'probability': 0.93}]}, None)
    """
    found: dict[str, Any] = {}
    classes = None
    if 'pred_instances' in sample:
        found['instances'] = [*_instances(sample.pred_instances, names)]
    if 'pred_panoptic_seg' in sample:
        ids = sample.pred_panoptic_seg.sem_seg[0].numpy()
        found['segments'], classes = _segments(ids, names)
    elif 'pred_sem_seg' in sample:
        classes = _map_of(sample.pred_sem_seg)
        classes = classes.astype(np.uint8 if classes.max(initial=0) < 256 else np.uint16)
        labels, counts = np.unique(classes, return_counts=True)
        found['areas'] = [
            {**_class(label, names), 'pixels': round(count / classes.size, 5)}
            for label, count in zip(labels.tolist(), counts.tolist())
        ]
    if 'pred_score' in sample:
        labels = sample.pred_label.tolist()
        found['classes'] = [
            {**_class(label, names), 'probability': round(float(sample.pred_score[label]), 5)} for label in labels
        ]
    if not found:
        raise ConfigError(
            f'the network predicts {", ".join(sample.keys()) or "nothing"}, which cannot be written; give a detector, '
            'a segmentor, or a classifier with a score for each class'
        )
    return found, classes


def _class(label: int, names: Sequence[str] | None) -> dict[str, Any]:
    return {'label': label, 'class': class_name(label, names)}


def _instances(instances: Any, names: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    from mmdet.structures.mask import encode_mask_results, mask2bbox

    boxes, masks = instances.get('bboxes'), instances.get('masks')
    # mmrotate has a class of its own for boxes.
    boxes = getattr(boxes, 'tensor', boxes)
    if masks is not None and (boxes is None or not boxes.any()):
        # Networks without a branch for boxes give zeros.
        boxes = mask2bbox(torch.as_tensor(masks))
    codes = [None] * len(instances) if masks is None else encode_mask_results(masks)
    scores = instances.scores.tolist()
    for label, score, box, code in zip(instances.labels.tolist(), scores, boxes.tolist(), codes):
        found = {**_class(label, names), 'score': round(score, 5)}
        found['bbox' if len(box) == 4 else 'rotated_bbox'] = [round(side, 3) for side in box]
        if code is not None:
            found['mask'] = {'size': list(code['size']), 'counts': code['counts'].decode()}
        yield found


def _segments(ids: np.ndarray, names: Sequence[str] | None) -> tuple[list[dict[str, Any]], np.ndarray]:
    # The number of classes stands for pixels of no class, which COCO gives the id 0.
    none = len(names) if names else -1
    segments, written = [], np.zeros(ids.shape, np.int64)
    for number, segment in enumerate((i for i in np.unique(ids).tolist() if i != none), 1):
        written[ids == segment] = number
        segments.append({'id': number, **_class(segment % INSTANCE, names)})
    return segments, np.stack([written % 256, written // 256 % 256, written // 65536], -1).astype(np.uint8)


def _map_of(prediction: Any) -> np.ndarray:
    """The map of a segmentor: mmsegmentation calls it ``data``, mmdetection ``sem_seg``."""
    values = prediction.data if 'data' in prediction else prediction.sem_seg
    return values.reshape(values.shape[-2:]).numpy()


def in_words(found: dict[str, Any], most: int = 5) -> str:
    """Return a record of :func:`record` in a few words.

    Example:
        >>> in_words({'instances': [{'class': 'cat'}, {'class': 'dog'}, {'class': 'cat'}]})
        '2 cat, 1 dog'
        >>> in_words({'classes': [{'class': 'cat', 'probability': 0.9}]}), in_words({'instances': []})
        ('cat 90 %', 'nothing')
    """
    if 'instances' in found or 'segments' in found:
        counts = Counter(part['class'] for part in [*found.get('segments', found.get('instances', ()))])
        words = [f'{count} {name}' for name, count in counts.most_common()]
    elif 'areas' in found:
        ordered = sorted(found['areas'], key=lambda area: -area['pixels'])
        words = [f'{area["class"]} {100 * area["pixels"]:.0f} %' for area in ordered]
    else:
        words = [f'{c["class"]} {100 * c["probability"]:.0f} %' for c in found['classes']]
    return ', '.join([*words[:most], *(['...'] if len(words) > most else [])]) or 'nothing'


def none_kept(sample: Any, least: str) -> str:
    """Return in words that no instance of a data sample has a score of at least a threshold, and how far off they are.

    Args:
        sample: data sample of a detector, with all its instances.
        least: the threshold, in words.

    Example:
        >>> none_kept(sample, '--score-thr 0.3')  # doctest: +SKIP
        'nothing above --score-thr 0.3 (highest score 0.0712)'
    """
    scores = sample.pred_instances.scores
    known = f'highest score {float(scores.max()):.3g}' if len(scores) else 'the network finds no instance at all'
    return f'nothing above {least} ({known})'
