"""Names that folders and files of data sets usually have."""

import re
from collections.abc import Sequence
from pathlib import Path

TRAIN_NAMES = ('train', 'training', 'train2017')
VAL_NAMES = ('val', 'valid', 'validation', 'val2017', 'test', 'testing')


def first_folder(base: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some folders that exists in another, written as here or in other capitals.

    Example:
        >>> first_folder(Path('there', 'is', 'none'), TRAIN_NAMES)
    """
    if not base.is_dir():
        return None
    found = {path.name.lower(): path for path in sorted(base.iterdir()) if path.is_dir()}
    exact = (base / name for name in names if (base / name).is_dir())
    return next(exact, None) or next((found[name.lower()] for name in names if name.lower() in found), None)


def in_split(file: Path, base: Path, names: Sequence[str]) -> bool:
    """Tell whether a word of a path below ``base`` is one of these names.

    Example:
        >>> in_split(Path('data/annotations/instances_train2017.json'), Path('data'), TRAIN_NAMES)
        True
    """
    return not set(names).isdisjoint(re.split(r'[^a-z0-9]+', str(file.relative_to(base)).lower()))
