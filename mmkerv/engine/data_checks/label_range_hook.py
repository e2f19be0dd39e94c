"""Hook that refuses labels outside the classes of the head before they reach the loss."""

import logging
import re
from collections.abc import Iterable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkerv.errors import DataError
from mmkerv.registry import HOOKS
from mmkerv.utils import log, unwrapped

# Attributes of a data sample that hold labels, and the attribute of those that is the tensor, in the three libraries.
LABELS = (('gt_sem_seg', 'data'), ('gt_instances', 'labels'), ('gt_label', None))
HEADS = ('decode_head', 'bbox_head', 'head', 'roi_head.bbox_head')


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Refuse data without images, and batches with labels outside ``0 .. num_classes - 1`` or masks of another size.

    Before training, one warning names the heads whose number of classes is not that of the data set.
    Such a label leads to an index error on a CPU, to a device-side assert that names nothing on a GPU, and in detection
    it counts as background. The labels are checked on the CPU, before the batch is moved.

    Raises:
        DataError: naming the image, the label and the number of classes.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.LabelRangeHook')]
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Refuse an empty data set, and compare its number of classes with the heads'."""
        loader = runner.train_loop.dataloader
        if not len(getattr(loader, 'dataset', (1,))):
            raise DataError(
                f'{type(loader.dataset).__name__} of train_dataloader has no image to train with: all were left out by '
                'filter_cfg, or none has an annotation of its classes. Check metainfo.classes, filter_cfg and ann_file'
            )
        for note in other_class_numbers(runner.model, getattr(loader, 'dataset', None)):
            log(f'mmkerv: {note}', logging.WARNING)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Check the labels of a batch."""
        if not isinstance(data_batch, dict) or not isinstance(data_batch.get('data_samples'), (list, tuple)):
            return
        classes, ignored = class_numbers(runner.model)
        inputs = data_batch.get('inputs')
        for number, sample in enumerate(data_batch['data_samples']):
            image = inputs[number] if isinstance(inputs, (list, tuple, Tensor)) else None
            check_sample(sample, classes, ignored, image)


def class_numbers(model: nn.Module) -> tuple[int | None, int | None]:
    """Return the number of classes of a model's head, and the label that it ignores; ``None`` if it has no such number.

    Example:
        >>> class_numbers(nn.Linear(1, 1))
        (None, None)
    """
    model = unwrapped(model)
    for path in HEADS:
        head: Any = model
        for name in path.split('.'):
            head = getattr(head, name, None)
        # A cascade has one head for each stage.
        first = head[0] if isinstance(head, nn.ModuleList) and len(head) else head
        classes = getattr(first, 'num_classes', None)
        if isinstance(classes, int) and not isinstance(classes, bool):
            return classes, getattr(first, 'ignore_index', None)
    return None, None


def other_class_numbers(model: nn.Module, dataset: Any) -> list[str]:
    """Describe the heads that have another number of classes than the data set; class-agnostic ones are left out.

    Args:
        model: any network.
        dataset: its training data; nothing is compared without ``metainfo['classes']``.

    Example:
        >>> other_class_numbers(nn.Linear(1, 1), None)
        []
    """
    metainfo = getattr(dataset, 'metainfo', None) or {}
    classes = {key.lower(): value for key, value in metainfo.items()}.get('classes')
    if not isinstance(classes, (list, tuple)) or not classes:
        return []
    numbers: dict[int, list[str]] = {}
    for name, module in unwrapped(model).named_modules():
        number = getattr(module, 'num_classes', None)
        is_head = re.fullmatch(r'(roi_head\.)?(bbox|mask|decode|auxiliary)_head(\.\d+)?|head', name)
        if is_head and type(number) is int and number != len(classes) and not getattr(module, 'class_agnostic', False):
            numbers.setdefault(number, []).append(name)
    listed = ', '.join([*map(str, classes[:5]), *(['...'] if len(classes) > 5 else [])])
    return [
        f'{", ".join(names)}: num_classes={number}, but {type(dataset).__name__} has {len(classes)} classes '
        f'({listed}); set num_classes={len(classes)} in the head, or metainfo.classes in the data, unless this is meant'
        for number, names in numbers.items()
    ]


def check_sample(sample: Any, classes: int | None, ignored: int | None = None, image: Tensor | None = None) -> None:
    """Check the labels of one data sample.

    Args:
        sample: of mmdetection, mmsegmentation or mmpretrain.
        classes: number of classes of the head.
        ignored: label that it ignores.
        image: (C, H, W); a mask must be of its size.

    Raises:
        DataError: naming the file and the label.

    Example:
        >>> check_sample(object(), 3)
    """
    for label, values in _labels(sample):
        names = [getattr(sample, key, None) for key in ('seg_map_path', 'img_path')]
        file = next((str(name) for name in names if name), 'without a name')
        if label == 'gt_sem_seg' and image is not None and values.shape[-2:] != image.shape[-2:]:
            raise DataError(
                f'the mask {file!r} is {tuple(values.shape[-2:])} after the pipeline and its image '
                f'{tuple(image.shape[-2:])}: the sizes must be equal. Check the file, and the transforms that resize'
            )
        if classes is None or not values.numel() or values.is_floating_point():
            continue
        known = values if ignored is None else values[values != ignored]
        if not known.numel():
            continue
        low, high = (int(value) for value in known.aminmax())
        if low < 0 or high >= max(classes, 2 if label == 'gt_sem_seg' else 1):
            raise DataError(
                f'{label} of {file!r} holds the label {low if low < 0 else high}, and the head knows {classes} classes '
                f'(0 to {classes - 1}). Set num_classes of the head and the classes of the data set '
                '(metainfo.classes; reduce_zero_label for masks that begin with 1), or correct the file'
            )


def _labels(sample: Any) -> Iterable[tuple[str, Tensor]]:
    for name, inner in LABELS:
        values = getattr(sample, name, None)
        values = getattr(values, inner, None) if inner else values
        if isinstance(values, Tensor):
            yield name, values
