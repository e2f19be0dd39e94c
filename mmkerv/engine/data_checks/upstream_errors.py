"""Errors of broken data that name the file, what is wrong with it and what to do.

Each function here replaces a method of mmengine, mmsegmentation or mmdetection, and gets it as its first argument; the
table of :mod:`mmkerv.engine.config.patches` says which. They cover images and masks that are missing or damaged, masks
in colour or of another size than their image, and COCO annotation files.
"""

import io
import json
import logging
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from typing import Any

import yaml
from mmengine.dataset import BaseDataset

from mmkerv.engine.data_checks.coco import check_annotations, check_classes
from mmkerv.errors import DataError, UnsafeCheckpointError
from mmkerv.utils import log

# Errors of Pillow's decoders for a damaged picture; those of OpenCV are recognised by their module.
UNREADABLE = (OSError, SyntaxError, EOFError)
# What has been logged: several data sets may read one file.
_logged: set[str] = set()


def named_annotations(upstream: Callable, self: BaseDataset) -> list[dict]:
    """Read the annotations of a data set, ``BaseDataset.load_data_list``."""
    try:
        return upstream(self)
    except (UnsafeCheckpointError, json.JSONDecodeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f'annotation file {str(self.ann_file)!r} cannot be read: {_reason(error)}') from error


def some_samples(upstream: Callable, self: BaseDataset) -> Any:
    """Pack the samples of a data set, ``BaseDataset._serialize_data``, which fails on none at all."""
    if not self.data_list:
        raise DataError(
            f'{type(self).__name__} has no sample (ann_file {str(self.ann_file)!r}, data_root '
            f'{str(self.data_root)!r}): the file or the folder lists none, or filter_cfg leaves all of them out. '
            'Check both, and metainfo.classes'
        )
    return upstream(self)


def named_sample(upstream: Callable, self: BaseDataset, idx: int) -> Any:
    """Load a sample and run the pipeline on it, ``BaseDataset.prepare_data``."""
    try:
        return upstream(self, idx)
    except DataError:
        raise
    # A pipeline may raise anything; only errors that are known to come from the file are reworded.
    except Exception as error:
        info = self.get_data_info(idx)
        file = info.get('img_path') if isinstance(info, dict) else None
        if isinstance(error, FileNotFoundError):
            raise DataError(
                f'image {str(error.filename or file)!r} of {type(self).__name__} does not exist. Put it there, or '
                'remove it from the annotations'
            ) from error
        undecoded = isinstance(error, AssertionError) and 'failed to load image' in str(error)
        if undecoded or isinstance(error, UNREADABLE) or type(error).__module__.partition('.')[0] == 'cv2':
            raise DataError(
                f'image {str(file)!r} of {type(self).__name__} cannot be read ({_reason(error)}): it is damaged, or '
                'not an image. Replace it by a good copy, or remove it from the annotations'
            ) from error
        log(f'mmkerv: sample {idx} of {type(self).__name__} ({file}) leads to the error below', logging.ERROR)
        raise


def checked_mask(upstream: Callable, self: Any, results: dict) -> None:
    """Load a mask, (H, W) of class numbers as large as its image, mmsegmentation's ``_load_seg_map``."""
    mask, image = str(results.get('seg_map_path')), str(results.get('img_path'))
    try:
        upstream(self, results)
    except FileNotFoundError as error:
        raise DataError(f'mask {mask!r} of image {image!r} does not exist; check data_prefix.seg_map_path') from error
    except (*UNREADABLE, AttributeError) as error:
        raise DataError(
            f'mask {mask!r} cannot be read ({_reason(error)}): it is damaged, or not an image. Replace it by a good '
            'copy'
        ) from error
    shape, wanted = results['gt_seg_map'].shape, results.get('ori_shape')
    if len(shape) != 2:
        raise DataError(
            f'mask {mask!r} has the shape {shape} of a colour picture: a mask holds the class number of each pixel. '
            'Convert it to one channel (or a palette), as the dataset_converters of mmsegmentation do'
        )
    if wanted is not None and tuple(wanted[:2]) != shape:
        raise DataError(
            f'mask {mask!r} is {shape[0]} x {shape[1]} and its image {image!r} {wanted[0]} x {wanted[1]} (height x '
            'width): the sizes must be equal. Replace it by the mask of this image'
        )


def readable_json(upstream: Callable, self: Any, annotation_file: Any = None, *args: Any, **kwargs: Any) -> None:
    """Read a COCO annotation file, mmdetection's ``COCO.__init__``, and log one line instead of the four it prints."""
    self.source = str(annotation_file)
    try:
        with redirect_stdout(io.StringIO()):
            upstream(self, annotation_file, *args, **kwargs)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f'annotation file {self.source!r} is not complete JSON ({_reason(error)}). Replace it by a good copy'
        ) from error
    except AssertionError as error:
        raise DataError(
            f'annotation file {self.source!r} must hold a JSON object with the lists of COCO ({error})'
        ) from error
    if annotation_file is not None:
        _log_once([f'{self.source}: {len(self.imgs)} images, {len(self.anns)} objects'], logging.INFO)


def checked_index(upstream: Callable, self: Any) -> None:
    """Check the boxes of a COCO annotation file before it is indexed, mmdetection's ``COCO.createIndex``."""
    from mmdet.datasets.api_wrappers import COCO

    # The subclass for panoptic annotations has no boxes.
    if type(self) is COCO and self.dataset:
        _log_once(f'{self.source}: {note}' for note in check_annotations(self.dataset, self.source))
    upstream(self)


def checked_classes(upstream: Callable, self: Any, cat_names: Any = (), *args: Any, **kwargs: Any) -> list[int]:
    """Compare the classes of a data set with the categories of its file, mmdetection's ``COCO.get_cat_ids``."""
    names = [category.get('name') for category in self.cats.values()]
    _log_once(check_classes(cat_names, names, self.source))
    return upstream(self, cat_names, *args, **kwargs)


def _log_once(notes: Iterable[str], level: int = logging.WARNING) -> None:
    for note in notes:
        if note not in _logged:
            _logged.add(note)
            log(f'mmkerv: {note}', level)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    # Pillow gets the bytes of the file, and names them by their address.
    return f'{type(error).__name__}' if not text or '<_io.' in text else ' '.join(text.split())
