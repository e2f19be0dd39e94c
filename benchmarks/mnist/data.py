"""MNIST as two tensors, from the four original files, packed or unpacked."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILES = {
    'train': ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte'),
    'test': ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte'),
}


def read_idx(path: Path) -> Tensor:
    """Read an idx file of bytes.

    Raises:
        FileNotFoundError: if neither ``path`` nor ``path.gz`` exists.
        ValueError: if it is not an idx file of bytes, or is truncated.
    """
    packed = path.with_name(f'{path.name}.gz')
    if not path.is_file() and not packed.is_file():
        raise FileNotFoundError(f'{path} and {packed} do not exist; --data must be the folder with the files of MNIST')
    content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    if content[:3] != b'\x00\x00\x08':
        raise ValueError(f'{path} is not an idx file of bytes: it begins with {content[:4]!r}; download MNIST again')
    axes = content[3]
    shape = np.frombuffer(content, '>u4', axes, 4).astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if values.size != shape.prod():
        raise ValueError(
            f'{path} has {values.size} bytes of data, and its header says {shape.prod()}; download MNIST again'
        )
    return torch.from_numpy(values.reshape(shape).copy())


def load(folder: Path, scale: str, limit: int | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return images (N, 1, 28, 28) and labels (N,) of both splits.

    Args:
        folder: folder of the files.
        scale: ``'01'`` pixels / 255, ``'std'`` then (x - 0.1307) / 0.3081.
        limit: largest number of training and of test images.
    """
    splits = {}
    for split, names in FILES.items():
        images, labels = (read_idx(Path(folder) / name)[:limit] for name in names)
        images = images.unsqueeze(1).float() / 255
        splits[split] = ((images - 0.1307) / 0.3081 if scale == 'std' else images, labels.long())
    return splits
