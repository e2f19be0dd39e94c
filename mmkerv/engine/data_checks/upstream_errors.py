"""Broken data in words: which file, what is wrong with it, what to do."""

import functools
import json
import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import yaml
from mmengine.dataset import BaseDataset

from mmkerv.engine.data_checks.coco import check_annotations, check_classes
from mmkerv.errors import DataError, UnsafeCheckpointError
from mmkerv.utils import log

# What the decoders of Pillow end in where a picture is damaged; OpenCV's is recognised by its module.
UNREADABLE = (OSError, SyntaxError, EOFError)
_noted: set[str] = set()


def install_data_errors(scope: str | None) -> None:
    """Make the data sets of this process, and of workers forked from it, name the file that they cannot use.

    It covers images and masks that are missing or damaged, masks of another size than their image or with colours in
    place of classes (mmsegmentation), and COCO annotation files (mmdetection).

    Args:
        scope: library of the data, as ``default_scope`` says it.

    Raises:
        DataError: when data are read.

    Example:
        >>> install_data_errors(None)
    """
    _wrap(BaseDataset, 'prepare_data', _named_sample)
    _wrap(BaseDataset, 'load_data_list', _named_annotations)
    if scope == 'mmseg' and find_spec('mmseg'):
        from mmseg.datasets.transforms import LoadAnnotations

        _wrap(LoadAnnotations, '_load_seg_map', _checked_mask)
    if scope == 'mmdet' and find_spec('mmdet'):
        from mmdet.datasets import CocoDataset
        from mmdet.datasets.api_wrappers import COCO

        _wrap(COCO, '__init__', _readable_json)
        _wrap(COCO, 'createIndex', _checked_index)
        _wrap(CocoDataset, 'load_data_list', _checked_classes)


def _wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    upstream = getattr(owner, name)
    if getattr(upstream, 'names_files', False):
        return

    @functools.wraps(upstream)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(upstream, self, *args, **kwargs)

    wrapped.names_files = True
    setattr(owner, name, wrapped)


def _named_annotations(upstream: Callable, self: BaseDataset) -> list[dict]:
    try:
        return upstream(self)
    except (UnsafeCheckpointError, json.JSONDecodeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f'annotation file {str(self.ann_file)!r} cannot be read: {_reason(error)}') from error


def _named_sample(upstream: Callable, self: BaseDataset, idx: int) -> Any:
    try:
        return upstream(self, idx)
    except DataError:
        raise
    # A pipeline may raise anything; only what is known to be the file's fault is put into other words.
    except Exception as error:
        info = self.get_data_info(idx)
        file = info.get('img_path') if isinstance(info, dict) else None
        if isinstance(error, FileNotFoundError):
            raise DataError(
                f'image {str(error.filename or file)!r} of {type(self).__name__} does not exist. Put it there, or take '
                'it out of the annotations'
            ) from error
        undecoded = isinstance(error, AssertionError) and 'failed to load image' in str(error)
        if undecoded or isinstance(error, UNREADABLE) or type(error).__module__.partition('.')[0] == 'cv2':
            raise DataError(
                f'image {str(file)!r} of {type(self).__name__} cannot be read ({_reason(error)}): it is damaged, or no '
                'image. Put a sound copy there, or take it out of the annotations'
            ) from error
        log(f'mmkerv: the error below comes with sample {idx} of {type(self).__name__}: {file}', logging.ERROR)
        raise


def _checked_mask(upstream: Callable, self: Any, results: dict) -> None:
    mask, image = str(results.get('seg_map_path')), str(results.get('img_path'))
    try:
        upstream(self, results)
    except FileNotFoundError as error:
        raise DataError(f'mask {mask!r} of image {image!r} does not exist; check data_prefix.seg_map_path') from error
    except (*UNREADABLE, AttributeError) as error:
        raise DataError(
            f'mask {mask!r} cannot be read ({_reason(error)}): it is damaged, or no image. Put a sound copy there'
        ) from error
    shape, wanted = results['gt_seg_map'].shape, results.get('ori_shape')
    if len(shape) != 2:
        raise DataError(
            f'mask {mask!r} has the shape {shape}, that of a picture in colour: a mask holds for each pixel the number '
            'of its class. Convert it to one channel (or a palette), as the dataset_converters of mmsegmentation do'
        )
    if wanted is not None and tuple(wanted[:2]) != shape:
        raise DataError(
            f'mask {mask!r} is {shape[0]} x {shape[1]} and its image {image!r} {wanted[0]} x {wanted[1]} (height x '
            'width): they must be of one size. Put the mask of this image there'
        )


def _readable_json(upstream: Callable, self: Any, annotation_file: Any = None, *args: Any, **kwargs: Any) -> None:
    self.source = str(annotation_file)
    try:
        upstream(self, annotation_file, *args, **kwargs)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f'annotation file {self.source!r} is no complete JSON ({_reason(error)}). Put a sound copy there'
        ) from error
    except AssertionError as error:
        raise DataError(f'annotation file {self.source!r} must hold an object as COCO does ({error})') from error


def _checked_index(upstream: Callable, self: Any) -> None:
    from mmdet.datasets.api_wrappers import COCO

    # Panoptic annotations, a subclass, have no boxes of their own.
    if type(self) is COCO and self.dataset:
        notes = check_annotations(self.dataset, self.source)
        if self.source not in _noted:
            _noted.add(self.source)
            for note in notes:
                log(f'mmkerv: {self.source}: {note}', logging.WARNING)
    upstream(self)


def _checked_classes(upstream: Callable, self: Any) -> list[dict]:
    coco = type(self).COCOAPI
    files: dict[str, Any] = {}

    def keep(annotation_file: Any) -> Any:
        files['coco'] = coco(annotation_file)
        return files['coco']

    self.COCOAPI = keep
    try:
        data_list = upstream(self)
    finally:
        del self.COCOAPI
    names = [category.get('name') for category in files['coco'].cats.values()]
    for note in check_classes(self.metainfo.get('classes') or (), names, str(self.ann_file)):
        log(f'mmkerv: {note}', logging.WARNING)
    return data_list


def _reason(error: Exception) -> str:
    text = str(error).strip()
    # Pillow is given bytes, and names them by their address.
    return f'{type(error).__name__}' if not text or '<_io.' in text else ' '.join(text.split())
