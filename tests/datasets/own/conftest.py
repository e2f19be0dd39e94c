import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkerv.datasets.own.faults import Faults


def save(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a picture of noise; each seed gives another file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_mask(path: Path, labels: np.ndarray | list[int], size: tuple[int, int] = (40, 30)) -> Path:
    """Write a mask with rows of these labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.resize(np.array(labels, np.uint8), size[1])
    Image.fromarray(np.repeat(rows[:, None], size[0], 1)).save(path)
    return path


@pytest.fixture
def picture() -> Callable[..., Path]:
    return save


@pytest.fixture
def mask() -> Callable[..., Path]:
    return save_mask


@pytest.fixture
def told() -> Callable[[Faults], str]:
    """Return the lines of all faults, and of all warnings after them."""
    return lambda faults: '\n'.join([*faults.lines(), *(f'warning: {line}' for line in faults.lines(stops=False))])


@pytest.fixture
def coco(tmp_path) -> Callable[..., Path]:
    """Return a function that writes a sound COCO file of five images, changed by the caller, with its images."""

    def write(split: str = 'train', change: Callable[[dict], None] = lambda data: None, first: int = 0) -> Path:
        numbers = range(first, first + 5)
        data = {
            'images': [{'id': n, 'file_name': f'{n}.png', 'width': 40, 'height': 30} for n in numbers],
            'categories': [{'id': 7, 'name': 'cat'}, {'id': 3, 'name': 'dog'}],
            'annotations': [
                {
                    'id': n,
                    'image_id': n,
                    'category_id': (7, 3)[n % 2],
                    'bbox': [2, 3, 10, 20],
                    'area': 200,
                    'iscrowd': 0,
                }
                for n in numbers
            ],
        }
        for n in numbers:
            save(tmp_path / split / f'{n}.png', n)
        change(data)
        file = tmp_path / 'annotations' / f'{split}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(data))
        return file

    return write
