"""Images and masks of class numbers: find them, check them, and read labels and palette from them."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmkerv.datasets.own.faults import Faults, Kind
from mmkerv.datasets.own.layout import TRAIN_NAMES, VAL_NAMES, first_folder
from mmkerv.datasets.own.pictures import (
    Picture,
    check_both,
    list_pictures,
    read_all,
    reason,
    same_suffix,
    sound_pictures,
)
from mmkerv.datasets.own.split import check_split, split_names
from mmkerv.errors import ConfigError, DataError

IMAGE_FOLDERS = ('JPEGImages', 'images', 'image', 'imgs', 'img_dir')
MASK_FOLDERS = ('SegmentationClass', 'masks', 'mask', 'labels', 'annotations', 'ann_dir')
LISTS = 'ImageSets/Segmentation'
IGNORED = 255
NO_MASK = Kind('images have no mask', 'Put a mask of the same name there, or remove the image')
BAD_MASK = Kind('masks cannot be read', 'They are damaged, or no images: replace them')
COLOURED = Kind('masks are pictures in colour', 'Convert them to one channel with the class number of each pixel')
SIZES = Kind('masks have another size than their image', 'Replace them by the mask of the image')
LABELS = Kind(
    'masks have labels beyond the classes', f'Give more names with --classes, or {IGNORED} to what is ignored'
)
SUFFIXES = Kind('images have another suffix than most', 'mmsegmentation reads one suffix: convert or remove them')
NO_IMAGE = Kind('masks have no image', 'They are left out', stops=False)
UNUSED = Kind('classes have no pixel in train', 'They cannot be learned', stops=False)
ONE_CLASS = Kind(
    'label only is in the masks',
    f'There is nothing to learn. Label {IGNORED} is ignored: masks of 0 and {IGNORED} need 0 and 1 instead',
)


class Mask(NamedTuple):
    """What is known of a mask.

    Args:
        width: in pixels.
        height: in pixels.
        labels: class numbers that occur, but 255; ``None`` for a picture in colour.
        palette: colours of the labels, if the file has any.
    """

    width: int
    height: int
    labels: frozenset[int] | None
    palette: dict[int, tuple[int, int, int]]


class SegmentationPart(NamedTuple):
    """Train or val.

    Args:
        images: folder of the images.
        masks: folder of the masks.
        names: images without suffix, relative to their folder.
        sizes: width and height of the images, (N, 2).
        list_file: file with the names; ``None`` where all images of the folder are meant.
        is_new: whether ``list_file`` is yet to be written.
    """

    images: Path
    masks: Path
    names: list[str]
    sizes: np.ndarray
    list_file: Path | None = None
    is_new: bool = False


class SegmentationSurvey(NamedTuple):
    """What is known of images and masks.

    Args:
        classes: names by label.
        palette: a colour for each class.
        train: train.
        val: val.
        image_suffix: suffix of all images.
        mask_suffix: what follows the name of an image in that of its mask.
    """

    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    train: SegmentationPart
    val: SegmentationPart
    image_suffix: str
    mask_suffix: str


class _Place(NamedTuple):
    images: Path
    masks: Path
    list_file: Path | None = None


def read_mask(path: Path) -> Mask:
    """Read a mask.

    Raises:
        OSError: if it is missing.
        Exception: another error of Pillow's if it is damaged.

    Example:
        >>> sorted(read_mask(Path('mask.png')).labels)  # doctest: +SKIP
        [0, 1]
    """
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        labels = np.asarray(image)
        colours = image.getpalette() if image.mode == 'P' else None
    height, width = labels.shape[:2]
    if labels.ndim != 2:
        return Mask(width, height, None, {})
    values = frozenset(map(int, np.unique(labels))) - {IGNORED}
    table = np.array(colours or []).reshape(-1, 3).tolist()
    return Mask(width, height, values, {value: tuple(table[value]) for value in values if value < len(table)})


def colour(label: int) -> tuple[int, int, int]:
    """Return the colour of a label in the palette of PASCAL VOC.

    Example:
        >>> colour(0), colour(1), colour(15)
        ((0, 0, 0), (128, 0, 0), (192, 128, 128))
    """
    bits = [sum((label >> 3 * digit + channel & 1) << 7 - digit for digit in range(8)) for channel in range(3)]
    return bits[0], bits[1], bits[2]


def class_names(given: Sequence[str], data: Path) -> tuple[str, ...] | None:
    """Return the names from the command line, from the file that it names, or from ``classes.txt`` of the data.

    A line of a file is a name; blank lines are left out.

    Raises:
        DataError: if a name is given twice.

    Example:
        >>> class_names(['sky', 'sea'], Path('data'))
        ('sky', 'sea')
    """
    file = Path(given[0]) if len(given) == 1 and Path(given[0]).is_file() else data / 'classes.txt'
    names = list(given)
    if not names or (len(names) == 1 and file == Path(names[0])):
        names = text_lines(file, with_mark=True) if file.is_file() else []
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise DataError(
            f'the class {doubled[0]!r} is named twice; each name belongs to one label, in the order of labels'
        )
    return tuple(names) or None


def text_lines(file: Path, with_mark: bool = False) -> list[str]:
    """Return the lines of a text file without blanks at their ends; empty ones are left out.

    Args:
        file: text in UTF-8.
        with_mark: whether it may begin with a byte order mark, as Windows' editors write it. In a list of images,
            mmsegmentation would take the mark for a part of the first name.

    Raises:
        DataError: if it is not such a text.

    Example:
        >>> text_lines(Path('classes.txt'))  # doctest: +SKIP
        ['sky', 'sea']
    """
    try:
        text = file.read_bytes().decode('utf-8-sig' if with_mark else 'utf-8')
    except UnicodeDecodeError as error:
        raise DataError(f'{str(file)!r} is not a text in UTF-8 ({error}); save it as UTF-8') from error
    if text.startswith('\ufeff'):
        raise DataError(
            f'{str(file)!r} begins with a byte order mark, which mmsegmentation takes for a part of the first name; '
            'save it as UTF-8 without one'
        )
    return [line for line in map(str.strip, text.splitlines()) if line]


def survey_segmentation(
    data: Path,
    val: Path | None,
    images: Sequence[Path],
    masks: Sequence[Path],
    names: tuple[str, ...] | None,
    fraction: float,
    seed: int,
    split_to: Path,
    faults: Faults,
) -> SegmentationSurvey:
    """Read and check train and val; one folder of images is split.

    Args:
        data: folder with images and masks in one of the usual layouts.
        val: such a folder of val.
        images: folders of the images of train and val.
        masks: folders of their masks.
        names: class names by label, if they are known.
        fraction: share of val where one folder is split.
        seed: of the split.
        split_to: folder for the files of a split.
        faults: where to note what is wrong.

    Raises:
        ConfigError: if no layout fits.
        DataError: if no image or no mask can be read.

    Example:
        >>> survey_segmentation(Path('data'), None, (), (), None, 0.2, 0, Path('split'), Faults())  # doctest: +SKIP
    """
    places = find_places(data, val, images, masks)
    suffix, mask_suffix = _suffixes(places[0])
    parts, pictures, found = [], [], []
    for title, place in zip(('train', 'val'), places):
        listed = _listed(place, suffix, title, faults)
        sound, read = _read(place, listed, suffix, mask_suffix, title, faults)
        parts.append(_part(place, sound))
        pictures.append(sound)
        found.append(read)
    if len(places) == 2:
        check_both(*pictures, faults)
        seen = found[0]
    else:
        chosen = split_names(pictures[0], fraction, seed)
        check_split(chosen[1], places[0].images)
        parts = [
            _part(places[0], {name: pictures[0][name] for name in part}, split_to / f'{title}.txt')
            for title, part in zip(('train', 'val'), chosen)
        ]
        seen = {name: found[0][name] for name in chosen[0] if name in found[0]}
    classes, palette = _classes(names, found, seen, faults)
    return SegmentationSurvey(classes, palette, *parts, suffix, mask_suffix)


def find_places(data: Path, val: Path | None, images: Sequence[Path], masks: Sequence[Path]) -> list[_Place]:
    """Return the folders of images and masks of train and val, or of both together.

    Raises:
        ConfigError: if no layout fits.

    Example:
        >>> find_places(Path('data'), None, [Path('images')], [Path('masks')])
        [_Place(images=PosixPath('images'), masks=PosixPath('masks'), list_file=None)]
    """
    if len(images) != len(masks):
        raise ConfigError(
            f'--images and --masks are folders of train and val; got {len(images)} and {len(masks)} of them'
        )
    if images and val is not None:
        raise ConfigError(
            f'--val {str(val)!r} would not be used; give the folders of val as the second of --images and of --masks'
        )
    if images:
        return [_Place(*pair) for pair in zip(images, masks)]
    if val is not None:
        return [_pair(data), _pair(val)]
    train, held = first_folder(data, TRAIN_NAMES), first_folder(data, VAL_NAMES)
    if train and held and first_folder(train, (*IMAGE_FOLDERS, *MASK_FOLDERS)):
        return [_pair(train), _pair(held)]
    for base in (data, *sorted(path for path in (*data.glob('*'), *data.glob('*/*')) if path.is_dir())):
        if first_folder(base, IMAGE_FOLDERS) and first_folder(base, MASK_FOLDERS):
            return _places(_pair(base), base)
    raise ConfigError(
        f'--data {str(data)!r}: no folder of images ({", ".join(IMAGE_FOLDERS)}) beside one of masks '
        f'({", ".join(MASK_FOLDERS)}); give both: --images DIR [VAL_DIR] --masks DIR [VAL_DIR]'
    )


def _pair(base: Path) -> _Place:
    images, masks = first_folder(base, IMAGE_FOLDERS), first_folder(base, MASK_FOLDERS)
    if images is None or masks is None:
        raise ConfigError(
            f'{str(base)!r} has no folder of {"images" if images is None else "masks"} '
            f'({", ".join(IMAGE_FOLDERS if images is None else MASK_FOLDERS)}); give both: --images DIR [VAL_DIR] '
            '--masks DIR [VAL_DIR]'
        )
    return _Place(images, masks)


def _places(both: _Place, base: Path) -> list[_Place]:
    """Divide images and masks by the folders in them, or by lists of names."""
    parts = [(first_folder(both.images, names), first_folder(both.masks, names)) for names in (TRAIN_NAMES, VAL_NAMES)]
    if all(folder for part in parts for folder in part):
        return [_Place(*part) for part in parts]
    for folder in (base / LISTS, base):
        lists = [folder / f'{name}.txt' for name in ('train', 'val')]
        if all(file.is_file() for file in lists):
            return [both._replace(list_file=file) for file in lists]
    return [both]


def _suffixes(place: _Place) -> tuple[str, str]:
    """Return the suffix of most images, and what most often follows the name of an image in that of its mask."""
    images, masks = list_pictures(place.images), list_pictures(place.masks)
    if not images or not masks:
        raise DataError(f'{str(place.masks if images else place.images)!r} has no image')
    suffix = Counter(Path(name).suffix for name in images).most_common(1)[0][0]
    stems = {name.removesuffix(suffix) for name in images}
    ends: Counter[str] = Counter()
    for name in masks:
        # The longest name of an image that the mask begins with.
        cut = next((cut for cut in range(len(name) - 1, 0, -1) if name[:cut] in stems), None)
        if cut:
            ends[name[cut:]] += 1
    if not ends:
        raise DataError(
            f'no mask in {str(place.masks)!r} has the name of an image in {str(place.images)!r} (such as {masks[0]!r} '
            f'and {images[0]!r}); rename them'
        )
    return suffix, ends.most_common(1)[0][0]


def _listed(place: _Place, suffix: str, title: str, faults: Faults) -> list[str]:
    if place.list_file:
        return text_lines(place.list_file)
    images = list_pictures(place.images)
    if same_suffix(images) != suffix:
        for name in (name for name in images if not name.endswith(suffix)):
            faults.add(SUFFIXES, f'{title}: {name}, not {suffix}')
    return [name.removesuffix(suffix) for name in images if name.endswith(suffix)]


def _read(
    place: _Place, names: list[str], suffix: str, mask_suffix: str, title: str, faults: Faults
) -> tuple[dict[str, Picture], dict[str, Mask]]:
    """Read and check images and masks; return the readable ones by name."""
    pictures = sound_pictures({name: place.images / f'{name}{suffix}' for name in names}, title, faults)
    paths = {name: place.masks / f'{name}{mask_suffix}' for name in names}
    read, masks = read_all(read_mask, paths.values(), f'{title} masks'), {}
    for name, path in paths.items():
        mask = read[path]
        if isinstance(mask, FileNotFoundError):
            faults.add(NO_MASK, f'{title}: {name}{suffix} needs {path.name}')
        elif isinstance(mask, Exception):
            faults.add(BAD_MASK, f'{title}: {path}: {reason(mask)}')
        elif mask.labels is None:
            faults.add(COLOURED, f'{title}: {path.name}')
        else:
            masks[name] = mask
            image = pictures.get(name)
            if image and (image.width, image.height) != (mask.width, mask.height):
                told = f'{mask.width} x {mask.height}, its image {image.width} x {image.height}'
                faults.add(SIZES, f'{title}: {path.name} is {told}')
    if not place.list_file:
        known = {f'{name}{mask_suffix}' for name in names}
        for name in list_pictures(place.masks):
            if name not in known:
                faults.add(NO_IMAGE, f'{title}: {name}')
    for what, folder, usable in (('mask', place.masks, masks), ('image', place.images, pictures)):
        if not usable:
            raise DataError('\n'.join([f'no {what} of {title} in {str(folder)!r} can be used', *faults.lines()]))
    return pictures, masks


def _part(place: _Place, pictures: dict[str, Picture], new_list: Path | None = None) -> SegmentationPart:
    sizes = np.array([picture[:2] for picture in pictures.values()], float).reshape(-1, 2)
    list_file = new_list or place.list_file
    return SegmentationPart(place.images, place.masks, list(pictures), sizes, list_file, new_list is not None)


def _classes(
    names: tuple[str, ...] | None, found: list[dict[str, Mask]], seen: dict[str, Mask], faults: Faults
) -> tuple[tuple[str, ...], list[tuple[int, int, int]]]:
    """Return class names and palette, and note labels without a class and classes without a pixel."""
    every = [mask for masks in found for mask in masks.values()]
    labels = set().union(*(mask.labels for mask in every))
    if names is None:
        highest = max((label for label in labels if label < IGNORED), default=0)
        names = tuple(f'class_{label}' for label in range(highest + 1))
    for title, masks in zip(('train', 'val') if len(found) > 1 else ('masks',), found):
        for name, mask in masks.items():
            if strange := sorted(label for label in mask.labels if not 0 <= label < len(names)):
                faults.add(LABELS, f'{title}: {name} has {", ".join(map(str, strange[:3]))} of {len(names)} classes')
    if len(labels) < 2:
        faults.add(ONE_CLASS, ', '.join(map(str, labels)) or f'{IGNORED}')
    used = set().union(*(mask.labels for mask in seen.values()))
    for label, name in enumerate(names):
        if label not in used:
            faults.add(UNUSED, f'{label} {name}')
    palettes: dict[int, tuple[int, int, int]] = {}
    for mask in every:
        for label, value in mask.palette.items():
            palettes.setdefault(label, value)
    # The palette of the files, unless labels look the same in it, as in that of greys which stands for none.
    own = {label: palettes[label] for label in sorted(palettes) if label < len(names)}
    if len(set(own.values())) < len(own) or all(value == (label,) * 3 for label, value in own.items()):
        palettes = {}
    return names, [palettes.get(label, colour(label)) for label in range(len(names))]
