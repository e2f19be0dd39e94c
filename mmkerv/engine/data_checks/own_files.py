"""Refuse to write pictures into a folder of the data, where they would replace files of the same names."""

from bisect import bisect_right
from pathlib import Path
from typing import Any

from mmengine.dataset import ConcatDataset, RepeatDataset

from mmkerv.errors import ConfigError

# Keys of a sample that name its files.
FILES = ('img_path', 'seg_map_path')


def inner_sample(dataset: Any, index: int) -> tuple[Any, int]:
    """Return the data set from which a concatenated or repeated one takes a sample, and the sample's index in it.

    Example:
        >>> inner_sample(['a', 'b'], 1)
        (['a', 'b'], 1)
    """
    while isinstance(dataset, (ConcatDataset, RepeatDataset)):
        if isinstance(dataset, ConcatDataset):
            part = bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
        else:
            index, dataset = index % len(dataset.dataset), dataset.dataset
    return dataset, index


def require_no_data(dataset: Any, folder: str | Path, argument: str) -> None:
    """Refuse a folder that holds images or annotations of a data set.

    Args:
        dataset: data set; one that does not tell the files of its samples passes.
        folder: where files will be written.
        argument: name of the argument that gives it, for the message.

    Raises:
        ConfigError: naming the folder and a file.

    Example:
        >>> require_no_data([], 'pictures', '--show-dir')
    """
    # An empty folder holds no data; the paths of millions of samples take a minute.
    if not Path(folder).is_dir() or not any(Path(folder).iterdir()):
        return
    first: dict[Path, str] = {}
    for index in range(len(dataset)):
        inner, place = inner_sample(dataset, index)
        sample = inner.get_data_info(place) if hasattr(inner, 'get_data_info') else {}
        for path in (Path(sample[key]) for key in FILES if sample.get(key)):
            first.setdefault(path.parent, path.name)
    for parent, name in first.items():
        if parent.resolve() == Path(folder).resolve():
            raise ConfigError(
                f'{argument} {str(folder)!r} holds the data, such as {name}, which would be overwritten; give another '
                'folder'
            )
