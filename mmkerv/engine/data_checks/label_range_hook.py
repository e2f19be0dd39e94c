"""Hook that refuses labels outside the classes of the head before they reach the loss."""

import logging
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkerv.errors import DataError
from mmkerv.ops.core.arguments import one_of
from mmkerv.registry import HOOKS
from mmkerv.utils import log, unwrapped

# Attributes of a data sample that hold labels, and the attribute of those that is the tensor, in the three libraries.
LABELS = (('gt_sem_seg', 'data'), ('gt_instances', 'labels'), ('gt_label', None))
# Heads that predict the classes of the data, and any others, such as an auxiliary one that predicts boundaries.
MAIN_HEAD = re.compile(r'(roi_head\.)?(bbox|mask|mask_iou|point|panoptic|query|segm|decode)_head(\.\d+)?|head')
ANY_HEAD = re.compile(r'(roi_head\.)?\w+_head(\.\d+)?|head')
# Heads that tell objects from background, whatever their class.
CLASSLESS = ('rpn_head',)
HEADS = ('decode_head', 'bbox_head', 'head', 'roi_head.bbox_head')


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Refuse data without images, and batches with labels outside ``0 .. num_classes - 1`` or masks of another size.

    Before training, heads whose number of classes is not that of the data set are refused: a head for 80 classes would
    learn from data of 2 without a word. Other heads, such as auxiliary ones, are named in a warning.
    A label outside the classes leads to an index error on a CPU, to a device-side assert that names nothing on a GPU,
    and in detection it counts as background. The labels are checked on the CPU, before the batch is moved.

    Args:
        other_classes: ``'refuse'`` heads with another number of classes than the data, or ``'warn'`` of them, where a
            head is meant to keep classes that this data has not.

    Raises:
        DataError: naming the heads and both numbers of classes, or the image, the label and the number of classes.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.LabelRangeHook', other_classes='warn')]
    """

    priority = 'VERY_HIGH'

    def __init__(self, other_classes: str = 'refuse') -> None:
        self.other_classes = one_of(other_classes, 'other_classes', ('refuse', 'warn'))

    def before_train(self, runner: Runner) -> None:
        """Refuse an empty data set, and compare its number of classes with the heads'."""
        loader = runner.train_loop.dataloader
        if not len(getattr(loader, 'dataset', (1,))):
            raise DataError(
                f'{type(loader.dataset).__name__} of train_dataloader has no image to train with: all were left out by '
                'filter_cfg, or none has an annotation of its classes. Check metainfo.classes, filter_cfg and ann_file'
            )
        others = other_class_numbers(runner.model, getattr(loader, 'dataset', None))
        refused = [other.text for other in others if other.is_main and self.other_classes == 'refuse']
        if refused:
            raise DataError(
                f'{"; ".join(refused)}. If that is meant, put '
                "dict(type='mmkerv.LabelRangeHook', other_classes='warn') into custom_hooks"
            )
        for other in others:
            log(f'mmkerv: {other.text}', logging.WARNING)

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


class OtherClasses(NamedTuple):
    """Heads that have another number of classes than the data.

    Args:
        text: what is wrong, for a message.
        is_main: whether they predict the classes of the data; an auxiliary head may predict something else.

    Example:
        >>> OtherClasses('model.head: num_classes=80 ...', True).is_main
        True
    """

    text: str
    is_main: bool


def other_class_numbers(model: nn.Module, dataset: Any) -> list[OtherClasses]:
    """Describe the heads that have another number of classes than the data set.

    Class-agnostic heads are left out, and networks that read the names of classes from a text. Of a panoptic data set,
    a head may have the classes of its things or of its stuff alone.

    Args:
        model: any network.
        dataset: its training data; nothing is compared without ``metainfo['classes']``.

    Example:
        >>> other_class_numbers(nn.Linear(1, 1), None)
        []
    """
    metainfo = {key.lower(): value for key, value in (getattr(dataset, 'metainfo', None) or {}).items()}
    classes, model = metainfo.get('classes'), unwrapped(model)
    if not isinstance(classes, (list, tuple)) or not classes or hasattr(model, 'language_model'):
        return []
    meant = {len(classes)}
    if metainfo.get('thing_classes') and metainfo.get('stuff_classes'):
        # A head of stuff has one class more, for all things.
        stuff = len(metainfo['stuff_classes'])
        meant |= {len(metainfo['thing_classes']), stuff, stuff + 1}
    found: dict[tuple[int, bool], list[str]] = {}
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        is_head = ANY_HEAD.fullmatch(name) and name.rpartition('.')[2] not in CLASSLESS
        if not is_head or type(number) is not int or number in meant or getattr(module, 'class_agnostic', False):
            continue
        # A segmentor may tell two classes apart by one map.
        if number != 1 or len(classes) != 2 or 'decode' not in name:
            found.setdefault((number, MAIN_HEAD.fullmatch(name) is not None), []).append(f'model.{name}')
    listed = ', '.join([*map(str, classes[:5]), *(['...'] if len(classes) > 5 else [])])
    return [
        OtherClasses(
            f'{", ".join(names)}: num_classes={number}, but the data of train_dataloader has {len(classes)} '
            f'classes ({listed}); set num_classes={len(classes)} there, or metainfo.classes in the data',
            is_main,
        )
        for (number, is_main), names in found.items()
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
