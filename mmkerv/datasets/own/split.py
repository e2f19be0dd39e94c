"""A split of names into train and val that depends on the names and a seed alone."""

import hashlib
from collections.abc import Iterable, Sized
from pathlib import Path

from mmkerv.errors import DataError


def split_names(names: Iterable[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Divide names into train and val: those with the smallest hashes of seed and name are val.

    A name keeps its place in the order of hashes when others are added, so that a growing data set keeps most of its
    split, on any machine.

    Args:
        names: different names.
        fraction: share of val, between 0 and 1; each part has at least one name of two or more.
        seed: of the hashes.

    Returns:
        Train and val, each sorted.

    Example:
        >>> split_names('abcde', 0.2, 0)
        (['a', 'b', 'c', 'e'], ['d'])
    """
    order = sorted(names, key=lambda name: (hashlib.sha256(f'{seed}:{name}'.encode()).digest(), name))
    number = min(max(1, round(fraction * len(order))), len(order) - 1) if len(order) > 1 else 0
    return sorted(order[number:]), sorted(order[:number])


def check_split(val: Sized, data: Path) -> None:
    """Refuse a split without images of val.

    Raises:
        DataError: if ``val`` is empty.

    Example:
        >>> check_split([], Path('data'))
        Traceback (most recent call last):
        ...
        mmkerv.errors.DataError: 'data' has too few images for a val; add images, or give the data of val with --val
    """
    if not len(val):
        raise DataError(f'{str(data)!r} has too few images for a val; add images, or give the data of val with --val')
