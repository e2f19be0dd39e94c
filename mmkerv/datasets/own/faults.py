"""Faults of a data set, collected by kind, so that all of them are told at once."""

from collections.abc import Iterator
from typing import NamedTuple

from mmkerv.errors import DataError

# Faults of one kind that are named; the others are counted.
NAMED = 5


class Kind(NamedTuple):
    """A kind of fault.

    Args:
        text: what is wrong, after a number.
        advice: what to do, or what happens to these.
        stops: whether a config cannot be written with it; a warning otherwise.

    Example:
        >>> Kind('images are missing', 'Put them there').stops
        True
    """

    text: str
    advice: str
    stops: bool = True


class Faults:
    """Faults of a data set by kind, in the order in which the kinds were found first.

    Example:
        >>> faults = Faults()
        >>> for number in range(7):
        ...     faults.add(Kind('images are missing', 'Put them there'), f'{number}.jpg')
        >>> print(*faults.lines())
        7 images are missing (0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 2 more). Put them there
    """

    def __init__(self) -> None:
        self._items: dict[Kind, list[str]] = {}

    def add(self, kind: Kind, item: str) -> None:
        """Note one fault: a kind, and the name of the file or annotation."""
        self._items.setdefault(kind, []).append(item)

    def __contains__(self, kind: Kind) -> bool:
        """Tell whether there is a fault of this kind."""
        return kind in self._items

    def lines(self, stops: bool = True) -> Iterator[str]:
        """Yield a line for each kind: the faults that stop, or the warnings."""
        for kind, items in self._items.items():
            if kind.stops == stops:
                more = f' and {len(items) - NAMED} more' if len(items) > NAMED else ''
                yield f'{len(items)} {kind.text} ({", ".join(items[:NAMED])}{more}). {kind.advice}'

    def refuse(self, data: str) -> None:
        """Raise if any fault stops.

        Raises:
            DataError: counting the kinds; their lines are printed before.
        """
        if kinds := sum(kind.stops for kind in self._items):
            raise DataError(
                f'{data!r} has {kinds} kind{"s" if kinds != 1 else ""} of faults, named above; no config was written. '
                'Correct the data, or write the config all the same with --write-anyway'
            )
