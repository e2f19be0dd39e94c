"""Annotations in COCO's format: find them and their images, check them, and measure their boxes."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmkerv.datasets.own.faults import Faults, Kind
from mmkerv.datasets.own.layout import TRAIN_NAMES, VAL_NAMES, in_split
from mmkerv.datasets.own.pictures import Picture, check_both, sound_pictures
from mmkerv.datasets.own.split import check_split, split_names
from mmkerv.engine.data_checks.coco import REQUIRED_FIELDS, is_number
from mmkerv.errors import ConfigError, DataError

LACKS = Kind('entries of the file lack keys', 'Add them')
DOUBLE = Kind('ids are used twice', 'Give each image and each annotation an id of its own')
TEXTS = Kind('ids of annotations are not numbers', "Number them: COCO's evaluation fails on others")
NAMES = Kind('categories have the name of another', 'Rename or merge them')
NO_NUMBERS = Kind('boxes are not four finite numbers', 'Write [x, y, width, height] in pixels')
CATEGORY = Kind('annotations have a category_id that the file does not declare', 'Declare it in categories')
SIZES = Kind('images have another size than the file says', 'Correct width and height, or the boxes will be wrong')
ORDER = Kind(
    'categories of train are missing in val, or in another place',
    'mmdetection numbers classes by their order in each file: write the categories of train into val',
)
ONLY_VAL = Kind('categories are in val and not in train', 'Declare the same categories in both')
NO_AREA = Kind('areas of annotations are not finite numbers', 'Write the area of the box or of its mask in pixels')
NO_PIXEL = Kind(
    'areas of annotations are not above 0',
    'mmdetection leaves these boxes out: write the area of the box or of its mask in pixels',
    stops=False,
)
EMPTY = Kind('boxes are smaller than a pixel', 'They are left out', stops=False)
OUTSIDE = Kind('boxes are outside of their image', 'They are left out', stops=False)
BEYOND = Kind('boxes reach beyond their image', 'They are clipped to it', stops=False)
NO_IMAGE = Kind('annotations are of images that the file does not list', 'They are left out', stops=False)
UNUSED = Kind('classes have no box in train', 'They cannot be learned', stops=False)
# Keys of entries that name an entry.
IDS = ('id', 'image_id', 'category_id')
# Pixels by which a box may reach beyond its image: borders are rounded in different ways.
ROUNDING = 1.5
# Images of a file that are looked for to find their folder.
SAMPLED = 20


class DetectionPart(NamedTuple):
    """Train or val.

    Args:
        file: annotation file; one that is yet to be written if ``is_new``.
        folder: folder of its images.
        content: what the file holds.
        boxes: its annotations that mmdetection uses, but those of crowds.
        is_new: whether ``file`` is a part of a file that is split.
    """

    file: Path
    folder: Path
    content: dict
    boxes: list[dict]
    is_new: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories in the order of the file."""
        return tuple(str(item.get('name')) for item in self.content['categories'])

    @property
    def sizes(self) -> np.ndarray:
        """Width and height of the images, (N, 2)."""
        return np.array([(item['width'], item['height']) for item in self.content['images']], float).reshape(-1, 2)

    @property
    def box_sizes(self) -> np.ndarray:
        """Width and height of the boxes in units of the longer side of their image, (M, 2)."""
        longer = {item['id']: max(item['width'], item['height']) for item in self.content['images']}
        return np.array([np.array(i['bbox'][2:]) / longer[i['image_id']] for i in self.boxes], float).reshape(-1, 2)


def find_annotations(data: Path, val: Path | None) -> tuple[Path, Path | None]:
    """Return the annotation files of train and val; the second is ``None`` where one file has to be split.

    Args:
        data: annotation file, or a folder with such, or with ``annotations/*.json``.
        val: annotation file of val.

    Raises:
        FileNotFoundError: if there is no file.
        ConfigError: if it is not clear which files are meant.

    Example:
        >>> find_annotations(Path('train.json'), Path('val.json'))  # doctest: +SKIP
    """
    for path in (data, val):
        if path is not None and not path.exists():
            raise FileNotFoundError(f'{str(path)!r} does not exist; give a COCO annotation file, or a folder with one')
    if val is not None and not val.is_file():
        raise ConfigError(f'--val {str(val)!r} is a folder; for detection give the annotation file of val')
    if data.is_file():
        return data, val
    files = sorted([*data.glob('*.json'), *data.glob('*/*.json')])
    # Where COCO's captions and keypoints lie beside them.
    files = [file for file in files if file.name.startswith('instances')] or files
    train, *named = ([file for file in files if in_split(file, data, n)] for n in (TRAIN_NAMES, *zip(VAL_NAMES)))
    # As of folders: that of val before that of test.
    held = next(filter(None, named), [])
    if len(files) == 1:
        return files[0], val
    if len(train) == 1 and val is not None:
        return train[0], val
    if len(train) == len(held) == 1:
        return train[0], held[0]
    listed = ', '.join(str(file.relative_to(data)) for file in files[:5]) + (', ...' if len(files) > 5 else '')
    raise ConfigError(
        f'--data {str(data)!r}: {f"it is not clear which of its {len(files)} files to use" if files else "no json"} '
        f'({listed or "looked for *.json and */*.json"}); give the files: --data TRAIN.json --val VAL.json'
        f'{"" if files else ". A folder of images for each class is for --task cls, masks are for --task seg"}'
    )


def read_annotations(file: Path) -> dict:
    """Read an annotation file.

    Raises:
        DataError: if it is not complete JSON, or has not the lists of COCO.

    Example:
        >>> read_annotations(Path('instances_train2017.json'))['categories']  # doctest: +SKIP
    """
    try:
        # Decoded here: from bytes, json also reads UTF-16 and a byte order mark, which pycocotools does not.
        data = json.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'annotation file {str(file)!r} is not complete JSON in UTF-8 ({error}). Replace it by a good copy'
        ) from error
    for key in REQUIRED_FIELDS:
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(f'annotation file {str(file)!r} has no list {key!r}; give a file in the format of COCO')
    return data


def find_images(file: Path, names: Sequence[str], title: str) -> Path:
    """Return the folder in which most of some images of an annotation file are.

    It is looked for beside the file and one folder above, two levels deep. Where several folders have as many, as with
    images that are numbered in each split, it is the one that is called after the split, else the one beside the file.

    Args:
        file: annotation file.
        names: of its images.
        title: ``'train'`` or ``'val'``.

    Raises:
        DataError: if no folder has any of them, or it is not clear which one is meant.

    Example:
        >>> find_images(Path('annotations/train.json'), ['1.jpg'], 'train')  # doctest: +SKIP
    """
    above = file.absolute().parent
    best, found = {above.resolve(): above}, 0
    for folder in dict.fromkeys(folder for base in (above, above.parent) for folder in _folders(base, 2)):
        number = sum(os.path.isfile(folder / name) for name in names[:SAMPLED])
        if number > found:
            best, found = {}, number
        if number == found and found:
            # A link to a folder is that folder.
            best.setdefault(folder.resolve(), folder)
    if names and not found:
        raise DataError(
            f'no image of {str(file)!r} was found ({names[0]!r} and others, in {str(above.parent)!r}); give their '
            'folder: --images DIR'
        )
    return _of_split(list(best.values()), file, title)


def _of_split(folders: list[Path], file: Path, title: str) -> Path:
    """Return the folder of a split among those that have images of the names in its file."""
    if len(folders) == 1:
        return folders[0]
    base = Path(os.path.commonpath(folders))
    words = [name for name in (*TRAIN_NAMES, *VAL_NAMES) if in_split(Path(file.name), Path(), [name])]
    for names in (*zip(words), *zip(TRAIN_NAMES if title == 'train' else VAL_NAMES)):
        called = [folder for folder in folders if in_split(folder, base, names)]
        if len(called) == 1:
            return called[0]
    beside = [folder for folder in folders if folder.is_relative_to(file.absolute().parent)]
    if len(beside) == 1:
        return beside[0]
    raise DataError(
        f'the images of {str(file)!r} may be those in {str(folders[0])!r} or in {str(folders[1])!r}: both have their '
        'names. Give the folders: --images TRAIN VAL'
    )


def _folders(base: Path, depth: int) -> Iterator[Path]:
    yield base
    if depth:
        try:
            with os.scandir(base) as entries:
                inner = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith('.'))
        except OSError:
            # That of somebody else, beside the data.
            return
        for path in inner:
            yield from _folders(Path(path), depth - 1)


def survey_detection(
    data: Path, val: Path | None, images: Sequence[Path], fraction: float, seed: int, split_to: Path, faults: Faults
) -> tuple[DetectionPart, DetectionPart]:
    """Read and check train and val; one file is split.

    Args:
        data: annotation file or folder, see :func:`find_annotations`.
        val: annotation file of val.
        images: folders of the images of train and val, of both if there is one; looked for if there is none.
        fraction: share of val where one file is split.
        seed: of the split.
        split_to: folder for the files of a split.
        faults: where to note what is wrong.

    Raises:
        ConfigError: if it is not clear which files are meant.

    Example:
        >>> survey_detection(Path('data'), None, (), 0.2, 0, Path('split'), Faults())  # doctest: +SKIP
    """
    train_file, val_file = find_annotations(data, val)
    if len(images) > 1 and val_file is None:
        raise ConfigError(
            f'--images {images[0]} {images[1]}: the second folder is of val, which has no annotation file beside '
            f'{str(train_file)!r}; give it with --val, or one folder for both'
        )
    train, pictures = _read(train_file, 'train', images[0] if images else None, faults)
    if val_file:
        held, others = _read(val_file, 'val', images[-1] if images else None, faults)
        _check_categories(train.classes, held.classes, faults)
        check_both(pictures, others, faults)
    else:
        names = (item['file_name'] for item in train.content['images'])
        chosen = split_names(dict.fromkeys(names), fraction, seed)
        check_split(chosen[1], train_file)
        train, held = (_subset(train, set(part), split_to / f'{t}.json') for t, part in zip(('train', 'val'), chosen))
    used = {item['category_id'] for item in train.boxes}
    for category in train.content['categories']:
        if category['id'] not in used:
            faults.add(UNUSED, str(category['name']))
    return train, held


def check_annotations(data: dict, title: str, faults: Faults) -> tuple[dict, list[dict]]:
    """Check an annotation file without its images.

    Args:
        data: its content, with the lists of COCO.
        title: ``'train'`` or ``'val'``.
        faults: where to note what is wrong.

    Returns:
        The content without the entries that lack keys, and the annotations that mmdetection uses, but those of crowds.

    Example:
        >>> category, image = dict(id=1, name='cat'), dict(id=1, file_name='1.jpg', height=8, width=8)
        >>> box = dict(id=1, image_id=1, category_id=2, bbox=[0, 0, 4, 4], area=16)
        >>> faults = Faults()
        >>> data = dict(images=[image], categories=[category], annotations=[box])
        >>> check_annotations(data, 'train', faults)[1], CATEGORY in faults
        ([], True)
    """
    data = {**data, **{key: _complete(data, key, title, faults) for key in REQUIRED_FIELDS}}
    for key in ('images', 'annotations', 'categories'):
        for number, count in Counter(str(item['id']) for item in data[key]).items():
            if count > 1:
                faults.add(DOUBLE, f'{title}: {key} {number}')
    for name, count in Counter(str(item['name']) for item in data['categories']).items():
        if count > 1:
            faults.add(NAMES, f'{title}: {name}')
    images = {item['id']: item for item in data['images']}
    categories = {item['id'] for item in data['categories']}
    boxes = []
    for item in data['annotations']:
        kind, name = _fault_of(item, images.get(item['image_id']), categories), f'{title}: annotation {item["id"]}'
        if not is_number(item['id']):
            faults.add(TEXTS, name)
        if kind:
            faults.add(kind, f'{name}, {kind_detail(kind, item)}')
        if kind in (None, BEYOND) and not item.get('iscrowd') and not item.get('ignore'):
            boxes.append(item)
    return data, boxes


def kind_detail(kind: Kind, item: dict) -> str:
    """Return the part of an annotation that is wrong, in words.

    Example:
        >>> kind_detail(CATEGORY, dict(category_id=9)), kind_detail(EMPTY, dict(bbox=[1, 2, 0, 4]))
        ('category_id 9', 'bbox [1, 2, 0, 4]')
    """
    key = {CATEGORY: 'category_id', NO_IMAGE: 'image_id', NO_AREA: 'area', NO_PIXEL: 'area'}.get(kind, 'bbox')
    return f'{key} {str(item[key])[:60]}'


def _read(file: Path, title: str, folder: Path | None, faults: Faults) -> tuple[DetectionPart, dict[str, Picture]]:
    """Read and check a file and its images."""
    data, boxes = check_annotations(read_annotations(file), title, faults)
    names = [item['file_name'] for item in data['images']]
    if not names or not data['categories']:
        raise DataError(f'annotation file {str(file)!r} lists no {"image" if not names else "category"} with all keys')
    folder = folder or find_images(file, names, title)
    pictures = sound_pictures({name: folder / name for name in names}, title, faults)
    for item in data['images']:
        picture = pictures.get(item['file_name'])
        if picture and (picture.width, picture.height) != (item['width'], item['height']):
            told = f'{item["width"]} x {item["height"]}'
            faults.add(SIZES, f'{title}: {item["file_name"]} is {picture.width} x {picture.height}, not {told}')
    return DetectionPart(file, folder, data, boxes), pictures


def _complete(data: dict, key: str, title: str, faults: Faults) -> list[dict]:
    """Return the entries of a list that have all keys, and note the others."""
    complete = []
    for item in data[key]:
        lacking = [field for field in REQUIRED_FIELDS[key] if not isinstance(item, dict) or field not in item]
        if key == 'images' and not lacking and not _is_image(item):
            lacking = ['a name as file_name, or a width and height above 0']
        if not lacking and (odd := [name for name in IDS if not isinstance(item.get(name, ''), (int, float, str))]):
            lacking = [f'a number or name as {name}' for name in odd]
        if lacking:
            number = item.get('id', '?') if isinstance(item, dict) else '?'
            faults.add(LACKS, f'{title}: {key} {number} lacks {", ".join(lacking)}')
        else:
            complete.append(item)
    return complete


def _is_image(item: dict) -> bool:
    sides = item['width'], item['height']
    return isinstance(item['file_name'], str) and all(isinstance(side, (int, float)) and side > 0 for side in sides)


def _fault_of(item: dict, image: dict | None, categories: set) -> Kind | None:
    box = item['bbox']
    is_box = isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)
    if not is_box or not all(map(math.isfinite, box)):
        return NO_NUMBERS
    if not isinstance(item['area'], (int, float)) or not math.isfinite(item['area']):
        return NO_AREA
    if item['category_id'] not in categories:
        return CATEGORY
    if image is None:
        return NO_IMAGE
    x, y, width, height = box
    if width < 1 or height < 1:
        return EMPTY
    if item['area'] <= 0:
        return NO_PIXEL
    if x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0:
        return OUTSIDE
    right, bottom = image['width'] + ROUNDING, image['height'] + ROUNDING
    return BEYOND if min(x, y) < -ROUNDING or x + width > right or y + height > bottom else None


def _check_categories(train: tuple[str, ...], val: tuple[str, ...], faults: Faults) -> None:
    for name in val:
        if name not in train:
            faults.add(ONLY_VAL, name)
    common = [name for name in train if name in val]
    if common != [name for name in val if name in train] or len(common) < len(train):
        for name in train:
            if name not in val or train.index(name) != val.index(name):
                faults.add(ORDER, name)


def _subset(part: DetectionPart, names: set[str], file: Path) -> DetectionPart:
    """Return the part of a file that belongs to some of its images."""
    images = [item for item in part.content['images'] if item['file_name'] in names]
    ids = {item['id'] for item in images}
    annotations = [item for item in part.content['annotations'] if item['image_id'] in ids]
    boxes = [item for item in part.boxes if item['image_id'] in ids]
    content = {**part.content, 'images': images, 'annotations': annotations}
    return DetectionPart(file, part.folder, content, boxes, is_new=True)
