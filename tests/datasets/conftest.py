from collections.abc import Callable
from pathlib import Path

import pytest

from mmkerv.datasets.shapes import LAYOUTS, ShapesSettings, write_shapes


@pytest.fixture(scope='session')
def small() -> dict[str, int]:
    """Settings of a small data set of shapes, which is written in a second."""
    return {'num_train': 7, 'num_val': 5, 'size': 96}


@pytest.fixture(scope='session')
def write(small) -> Callable[..., Path]:
    """Return a function that writes the small data set, with changed settings, and returns its folder."""

    def write_small(root: Path, **settings) -> Path:
        assert write_shapes(root, ShapesSettings(**{**small, **settings}), progress=False)
        return root

    return write_small


@pytest.fixture(scope='session')
def data(write, tmp_path_factory) -> Path:
    """The small data set in all layouts."""
    return write(tmp_path_factory.mktemp('shapes') / 'all', layouts=list(LAYOUTS))
