"""Images in a folder for each class: find them, check them, and split them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmkerv.datasets.own.faults import Faults, Kind
from mmkerv.datasets.own.layout import TRAIN_NAMES, VAL_NAMES, first_folder
from mmkerv.datasets.own.pictures import Picture, check_both, list_pictures, sound_pictures
from mmkerv.datasets.own.split import check_split, split_names
from mmkerv.errors import ConfigError, DataError

EMPTY_CLASS = Kind('class folders of train have no image', 'Remove them, or put images there')
ONLY_VAL = Kind('class folders are in val and not in train', 'Remove them, or train on these classes too')
UNTRIED = Kind('classes of train are not in val', 'They are not evaluated', stops=False)
TWO_CLASSES = Kind('images of train are in two classes, by their bytes', 'Keep the right one', stops=False)
# What mmpretrain's CustomDataset reads by default.
READ = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
NOT_READ = Kind(f'images have another suffix than {", ".join(READ)}', 'They are left out', stops=False)


class FolderPart(NamedTuple):
    """Train or val.

    Args:
        folder: folder of the class folders.
        names: images, relative to the folder, with the number of their class.
        sizes: width and height of the images, (N, 2).
        list_file: file to write with the names and numbers; ``None`` where the folder alone says the same.
    """

    folder: Path
    names: list[tuple[str, int]]
    sizes: np.ndarray
    list_file: Path | None = None


def survey_folders(
    data: Path, val: Path | None, fraction: float, seed: int, split_to: Path, faults: Faults
) -> tuple[tuple[str, ...], FolderPart, FolderPart]:
    """Read and check train and val; one folder of class folders is split, each class by itself.

    Args:
        data: folder with ``train/CLASS/*`` and ``val/CLASS/*``, or with ``CLASS/*``.
        val: folder of class folders of val.
        fraction: share of val where one folder is split.
        seed: of the split.
        split_to: folder for the files of a split.
        faults: where to note what is wrong.

    Returns:
        Class names, which are those of the folders in sorted order, train, and val.

    Raises:
        ConfigError: if there is no class folder.
        DataError: if no image can be read.

    Example:
        >>> survey_folders(Path('data'), None, 0.2, 0, Path('split'), Faults())  # doctest: +SKIP
    """
    train, held = first_folder(data, TRAIN_NAMES), val or first_folder(data, VAL_NAMES)
    if held is not None and val is None and not class_folders(held):
        # Images without classes, to predict on.
        held = None
    if train is None or (held is None and not class_folders(train)):
        # Class folders may have any name, also one that train or val usually has.
        train, held = data, val
    elif held is None:
        raise ConfigError(
            f'{str(train)!r} has no val beside it; give it with --val DIR, or give --data {train} to split it'
        )
    for folder in filter(None, (train, held)):
        if not folder.is_dir():
            raise FileNotFoundError(f'{str(folder)!r} is no folder; give one with a folder for each class')
    classes = class_folders(train)
    if not classes:
        raise ConfigError(f'{str(train)!r} has no folders; classification needs one for each class, CLASS/*.jpg')
    if len(classes) == 1:
        raise ConfigError(
            f'{str(train)!r} has the folder {classes[0]!r} only; classification needs two classes or more'
        )
    pictures = _read(train, classes, 'train', faults)
    _check_classes(classes, pictures, faults)
    if held is None:
        parts = [split_names([n for n in pictures if n.split('/')[0] == name], fraction, seed) for name in classes]
        chosen = [[name for part in parts for name in part[number]] for number in (0, 1)]
        check_split(chosen[1], data)
        first, second = (
            _part(train, classes, {name: pictures[name] for name in names}, split_to / f'{title}.txt')
            for title, names in zip(('train', 'val'), chosen)
        )
        return classes, first, second
    for name in class_folders(held):
        if name not in classes:
            faults.add(ONLY_VAL, name)
    others = _read(held, classes, 'val', faults)
    check_both(pictures, others, faults)
    untried = [name for name in classes if not (held / name).is_dir()]
    for name in untried:
        faults.add(UNTRIED, name)
    # mmpretrain numbers the classes by the folders that are there, hidden ones too.
    first = _part(train, classes, pictures, split_to / 'train.txt' if _hidden(train) else None)
    return classes, first, _part(held, classes, others, split_to / 'val.txt' if untried or _hidden(held) else None)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted as mmpretrain does.

    Example:
        >>> class_folders(Path('data/train'))  # doctest: +SKIP
        ('cat', 'dog')
    """
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.')))


def _hidden(folder: Path) -> bool:
    return any(path.is_dir() and path.name.startswith('.') for path in folder.iterdir())


def _read(folder: Path, classes: tuple[str, ...], title: str, faults: Faults) -> dict[str, Picture]:
    names = [f'{name}/{path}' for name in classes for path in list_pictures(folder / name)]
    for name in (name for name in names if Path(name).suffix.lower() not in READ):
        faults.add(NOT_READ, f'{title}: {name}')
    names = [name for name in names if Path(name).suffix.lower() in READ]
    pictures = sound_pictures({name: folder / name for name in names}, title, faults)
    if not pictures:
        raise DataError(f'{str(folder)!r}: none of {len(names)} images in its class folders can be read')
    return pictures


def _check_classes(classes: tuple[str, ...], pictures: dict[str, Picture], faults: Faults) -> None:
    full = {name.split('/')[0] for name in pictures}
    for name in classes:
        if name not in full:
            faults.add(EMPTY_CLASS, name)
    first: dict[str, str] = {}
    for name, picture in pictures.items():
        other = first.setdefault(picture.digest, name)
        if other.split('/')[0] != name.split('/')[0]:
            faults.add(TWO_CLASSES, f'{other} and {name}')


def _part(
    folder: Path, classes: tuple[str, ...], pictures: dict[str, Picture], list_file: Path | None = None
) -> FolderPart:
    sizes = np.array([picture[:2] for picture in pictures.values()], float).reshape(-1, 2)
    return FolderPart(folder, [(name, classes.index(name.split('/')[0])) for name in pictures], sizes, list_file)
