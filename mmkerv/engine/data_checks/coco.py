"""Checks of COCO annotations: errors for what mmdetection cannot use, a count of what it leaves out."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mmkerv.errors import DataError

REQUIRED_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
}
ADVICE = 'Correct or remove them in the file'


def check_annotations(dataset: Any, source: str) -> list[str]:
    """Check the content of a COCO annotation file.

    Args:
        dataset: the parsed file.
        source: its name, for messages.

    Returns:
        One line for each kind of annotation that mmdetection will leave out: boxes smaller than a pixel, annotations of
        categories or images that the file does not list; and one on ids that are not numbers.

    Raises:
        DataError: if a list or a key is missing, a box is not four numbers, or a box or an area is NaN or infinite.

    Example:
        >>> image = dict(id=1, file_name='1.jpg', height=8, width=8)
        >>> box = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 4, 0], area=0)
        >>> data = dict(images=[image], categories=[dict(id=1, name='a')], annotations=[box])
        >>> check_annotations(data, 'a.json')
        ['1 of 1 boxes are smaller than a pixel (the first in annotation 1): they are left out']
    """
    if not isinstance(dataset, dict):
        raise DataError(
            f'annotation file {source!r} holds a {type(dataset).__name__}; it must be a COCO-style JSON object'
        )
    for key, fields in REQUIRED_FIELDS.items():
        # Files of test images have no annotations.
        if key == 'annotations' and key not in dataset:
            continue
        if not isinstance(dataset.get(key), list):
            raise DataError(f'annotation file {source!r} has no list {key!r}; give a file in the format of COCO')
        for item in dataset[key]:
            if key == 'annotations' and isinstance(item, dict) and item.get('ignore'):
                continue
            if absent := [field for field in fields if not isinstance(item, dict) or field not in item]:
                name = f'{key[:-1]} {item["id"]!r}' if isinstance(item, dict) and 'id' in item else f'an item of {key}'
                raise DataError(f'annotation file {source!r}: {name} has no {", ".join(absent)!r}; add it')
    _check_images(dataset['images'], source)
    used = [item for item in dataset.get('annotations', ()) if not item.get('ignore')]
    return [*_check_boxes(used, source), *_check_ids(dataset, used, source)] if used else []


def check_classes(classes: Sequence[str], names: Iterable[Any], source: str) -> list[str]:
    """Compare the classes of a data set with the categories of its file.

    Returns:
        A line about the classes that the file does not list: mmdetection gives their numbers to the others.

    Raises:
        DataError: if the file lists none of them.

    Example:
        >>> check_classes(('cat', 'dog'), ['cat', 'dog', 'cow'], 'a.json')
        []
    """
    names = list(names)
    absent = [name for name in classes if name not in names]
    if not absent:
        return []
    listed = ', '.join(map(repr, names[:5])) + (', ...' if len(names) > 5 else '')
    if len(absent) == len(classes):
        raise DataError(
            f'annotation file {source!r} lists none of the {len(classes)} classes of the data set ({classes[0]!r}, '
            f"...), but {listed or 'no category'}. Set metainfo=dict(classes=(...)) of the data sets, and the head's "
            'num_classes'
        )
    return [
        f'{source}: {len(absent)} of {len(classes)} classes are not in the file ({", ".join(map(repr, absent[:3]))}), '
        'and the others take their numbers. Set metainfo=dict(classes=(...)) to what it lists'
    ]


def _check_images(images: list[dict], source: str) -> None:
    for image in images:
        sides = image['height'], image['width']
        if not isinstance(image['file_name'], str) or not all(isinstance(s, (int, float)) and s > 0 for s in sides):
            raise DataError(
                f'annotation file {source!r}: image {image["id"]!r} has file_name {image["file_name"]!r}, height and '
                f'width {sides}; they must be a name and numbers above 0. {ADVICE}'
            )


def _check_boxes(used: list[dict], source: str) -> list[str]:
    try:
        boxes = np.array([item['bbox'] for item in used], np.float64).reshape(len(used), 4)
        areas = np.array([item['area'] for item in used], np.float64)
    except (TypeError, ValueError):
        boxes, areas = _one_by_one(used, source)
    wrong = ~(np.isfinite(boxes).all(1) & np.isfinite(areas))
    if wrong.any():
        first = used[int(wrong.argmax())]
        raise DataError(
            f'annotation file {source!r}: {wrong.sum()} of {len(used)} boxes are NaN or infinite, the first in '
            f'annotation {first["id"]!r} of image {first["image_id"]!r}: bbox {first["bbox"]}, area {first["area"]}. '
            f'{ADVICE}'
        )
    empty = (boxes[:, 2:] < 1).any(1) | (areas <= 0)
    return [_left_out(used, empty, 'boxes are smaller than a pixel')] if empty.any() else []


def _one_by_one(used: list[dict], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Convert the boxes and areas one by one, to name the one that cannot be converted."""
    for item in used:
        try:
            np.array([*item['bbox'], item['area']], np.float64).reshape(5)
        except (TypeError, ValueError) as error:
            raise DataError(
                f'annotation file {source!r}: annotation {item["id"]!r} has bbox {str(item["bbox"])[:80]} and area '
                f'{str(item["area"])[:80]}; they must be [x, y, width, height] and a number. {ADVICE}'
            ) from error
    return np.array([i['bbox'] for i in used], np.float64), np.array([i['area'] for i in used], np.float64)


def _check_ids(dataset: dict, used: list[dict], source: str) -> list[str]:
    odd = [item for item in used if not isinstance(item['id'], (int, str))]
    doubled = [number for number, count in Counter(str(item['id']) for item in used).items() if count > 1]
    if odd or doubled:
        raise DataError(
            f'annotation file {source!r}: the id {odd[0]["id"] if odd else doubled[0]!r} of an annotation is '
            f'{"not a number" if odd else "used twice"}. {ADVICE}'
        )
    notes = []
    if texts := [item['id'] for item in used if not is_number(item['id'])]:
        notes.append(
            f'{len(texts)} of {len(used)} ids of annotations are not numbers (the first is {texts[0]!r}): an '
            'evaluation with the file fails; number them'
        )
    for key, label in (('categories', 'category_id'), ('images', 'image_id')):
        # Compared as text: an id need not be a number.
        listed = {str(item['id']) for item in dataset[key]}
        strange = np.array([str(item[label]) not in listed for item in used])
        if strange.any():
            ids = list(dict.fromkeys(str(item[label]) for item, odd in zip(used, strange) if odd))[:3]
            text = f'annotations are of {key} that the file does not list ({label} {", ".join(ids)})'
            notes.append(_left_out(used, strange, text))
    return notes


def is_number(name: Any) -> bool:
    """Tell whether COCO's evaluation can take the id of an annotation: it puts them into an array of numbers.

    Example:
        >>> is_number(7), is_number('7'), is_number('a7')
        (True, True, False)
    """
    try:
        float(name)
    except (TypeError, ValueError):
        return False
    return True


def _left_out(used: list[dict], chosen: np.ndarray, text: str) -> str:
    first = used[int(chosen.argmax())]['id']
    return f'{chosen.sum()} of {len(used)} {text} (the first in annotation {first!r}): they are left out'
