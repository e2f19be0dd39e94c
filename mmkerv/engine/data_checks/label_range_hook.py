"""``LabelRangeHook``: labels that the head has no class for, before they reach the loss."""

from collections.abc import Iterable
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkerv.errors import DataError
from mmkerv.registry import HOOKS

# Attributes of a data sample that hold labels, and of an object inside them, in the three libraries.
LABELS = (('gt_sem_seg', 'data'), ('gt_instances', 'labels'), ('gt_label', None))
HEADS = ('decode_head', 'bbox_head', 'head', 'roi_head.bbox_head')


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Refuse data without images, and batches with labels outside ``0 .. num_classes - 1`` or masks of another size.

    On a CPU such a label ends in an index error, on a GPU in a device-side assert that names nothing, and in detection
    it is taken for the background. The labels are looked at where they are, on the CPU, before the batch is moved.

    Raises:
        DataError: naming the image, the label and the number of classes.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.LabelRangeHook')]
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Refuse a data set of which nothing is left."""
        loader = runner.train_loop.dataloader
        if not len(getattr(loader, 'dataset', (1,))):
            raise DataError(
                f'{type(loader.dataset).__name__} of train_dataloader has no image to train with: all were left out by '
                'filter_cfg, or have no annotation of its classes. Check metainfo.classes, filter_cfg and ann_file'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Look at the labels."""
        if not isinstance(data_batch, dict) or not isinstance(data_batch.get('data_samples'), (list, tuple)):
            return
        classes, ignored = class_numbers(runner.model)
        inputs = data_batch.get('inputs')
        for number, sample in enumerate(data_batch['data_samples']):
            image = inputs[number] if isinstance(inputs, (list, tuple, Tensor)) else None
            check_sample(sample, classes, ignored, image)


def class_numbers(model: nn.Module) -> tuple[int | None, int | None]:
    """Return how many classes the head of a model knows, and the label that it ignores; ``None`` where it does not say.

    Example:
        >>> class_numbers(nn.Linear(1, 1))
        (None, None)
    """
    model = model.module if is_model_wrapper(model) else model
    for path in HEADS:
        head: Any = model
        for name in path.split('.'):
            head = getattr(head, name, None)
        for one in head if isinstance(head, nn.ModuleList) else (head,):
            classes = getattr(one, 'num_classes', None)
            if isinstance(classes, int) and not isinstance(classes, bool):
                return classes, getattr(one, 'ignore_index', None)
    return None, None


def check_sample(sample: Any, classes: int | None, ignored: int | None = None, image: Tensor | None = None) -> None:
    """Check the labels of one data sample.

    Args:
        sample: of mmdetection, mmsegmentation or mmpretrain.
        classes: how many the head knows.
        ignored: the label that it ignores.
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
                f'the mask {file!r} is {tuple(values.shape[-2:])} behind the pipeline and its image '
                f'{tuple(image.shape[-2:])}: they must be of one size. Check the file, and the transforms that resize'
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
