"""Sizes and contents of image files, read in threads, with each file read once."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image
from tqdm import tqdm

from mmkerv.datasets.own.faults import Faults, Kind
from mmkerv.image_files import large_images

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
MISSING = Kind('images are missing', 'Put them there, or remove them from the annotations')
UNREADABLE = Kind('images cannot be read', 'They are damaged, or no images: replace or remove them')
IN_BOTH = Kind(
    'images are in both train and val, by their bytes',
    'The evaluation would be of images that were trained on: remove them from one of the two',
)
# Tag of the orientation in EXIF, and its values with rows and columns exchanged.
ORIENTATION, EXCHANGED = 274, (5, 6, 7, 8)
# Errors of Pillow's decoders for a damaged picture.
ERRORS = (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError)
T = TypeVar('T')


class Picture(NamedTuple):
    """What is known of an image file.

    Args:
        width: in pixels, as OpenCV reads it: turned by its EXIF orientation.
        height: in pixels.
        digest: hash of the file's bytes.
    """

    width: int
    height: int
    digest: str


def read_picture(path: Path) -> Picture:
    """Read and decode an image file.

    Raises:
        OSError: if it is missing.
        Exception: one of ``ERRORS`` if it is damaged.

    Example:
        >>> read_picture(Path('cat.jpg'))[:2]  # doctest: +SKIP
        (640, 480)
    """
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION) in EXCHANGED:
            width, height = height, width
        # A JPEG is decoded at an eighth of its size, which finds damage all the same.
        image.draft(image.mode, (1, 1))
        image.load()
    return Picture(width, height, hashlib.sha1(data, usedforsecurity=False).hexdigest())


def read_all(read: Callable[[Path], T], paths: Iterable[Path], title: str) -> dict[Path, T | Exception]:
    """Apply a function to files in threads; where it fails on a file, that file has the error instead.

    Args:
        read: function of a path.
        paths: files.
        title: of the progress bar, which is shown on terminals only.

    Example:
        >>> read_all(read_picture, [], 'train')
        {}
    """

    def attempt(path: Path) -> Any:
        try:
            return read(path)
        except ERRORS as error:
            return error

    paths = list(paths)
    with large_images(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = tqdm(pool.map(attempt, paths), total=len(paths), desc=title, disable=None, leave=False)
        return dict(zip(paths, results))


def sound_pictures(files: dict[str, Path], title: str, faults: Faults) -> dict[str, Picture]:
    """Read the images of a data set, and note those that are missing or damaged.

    Args:
        files: paths by the name that a message should give.
        title: ``'train'`` or ``'val'``.
        faults: where to note them.

    Returns:
        The readable ones by name.
    """
    read = read_all(read_picture, files.values(), title)
    sound = {}
    for name, path in files.items():
        if isinstance(result := read[path], FileNotFoundError):
            faults.add(MISSING, f'{title}: {path}')
        elif isinstance(result, Exception):
            faults.add(UNREADABLE, f'{title}: {path}: {reason(result)}')
        else:
            sound[name] = result
    return sound


def reason(error: Exception) -> str:
    """Return the first words of an error; Pillow names bytes by their address.

    Example:
        >>> reason(OSError('image file is truncated (4 bytes not processed)'))
        'image file is truncated (4 bytes not processed)'
    """
    text = ' '.join(str(error).split())
    return 'not an image' if not text or '<_io.' in text else text[:80]


def check_both(train: dict[str, Picture], val: dict[str, Picture], faults: Faults) -> None:
    """Note the files that train and val have in common."""
    known = {picture.digest: name for name, picture in train.items()}
    for name, picture in val.items():
        if other := known.get(picture.digest):
            faults.add(IN_BOTH, f'{other} and {name}' if other != name else name)


def list_pictures(folder: Path) -> list[str]:
    """Return the paths of the images below a folder, relative to it, sorted.

    Example:
        >>> list_pictures(Path('there', 'is', 'none'))
        []
    """
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )


def same_suffix(names: Sequence[str]) -> str | None:
    """Return the suffix that all names have, else ``None``.

    Example:
        >>> same_suffix(['a.jpg', 'b.jpg']), same_suffix(['a.jpg', 'b.png'])
        ('.jpg', None)
    """
    suffixes = {Path(name).suffix for name in names}
    return suffixes.pop() if len(suffixes) == 1 else None
