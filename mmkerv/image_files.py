"""Image files that a command line names. It imports nothing large: a name that is wrong is refused at once."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.pgm', '.tif', '.tiff', '.webp')
# Images, at most, on which the fold tool compares two networks unless it is told otherwise.
MOST = 32
# Largest image that OpenCV reads.
MOST_PIXELS = 2**30


@contextmanager
def large_images() -> Iterator[None]:
    """Let Pillow open images as large as OpenCV's limit, such as aerial ones; its own is 179 million pixels.

    Example:
        >>> with large_images():
        ...     image = Image.open('aerial.tif')  # doctest: +SKIP
    """
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    if before is not None:
        # Pillow refuses more than twice as many.
        Image.MAX_IMAGE_PIXELS = max(before, MOST_PIXELS // 2)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def find_images(inputs: Iterable[str | Path], argument: str = 'image') -> list[Path]:
    """Return the image files that files, folders and patterns name, each once, in their order.

    Of a folder these are the images in it, sorted by name, without its subfolders; ``'DIR/**/*.jpg'`` finds those too.

    Args:
        inputs: files, folders and patterns.
        argument: what messages call them.

    Raises:
        FileNotFoundError: if one of them does not exist, or has no image.

    Example:
        >>> find_images(['demo.jpg', 'data/val2017', 'photos/*.png'])  # doctest: +SKIP
    """
    found: dict[Path, Path] = {}
    for given in map(str, inputs):
        path = Path(given)
        if path.is_dir():
            files = _images(path.iterdir())
            if not files:
                raise FileNotFoundError(f'{argument} {given!r} holds no image ({", ".join(SUFFIXES)})')
        elif path.exists():
            files = [path]
        elif glob.has_magic(given):
            files = _images(map(Path, glob.glob(given, recursive=True)))
            if not files:
                raise FileNotFoundError(f'{argument} {given!r} matches no image (seen from {Path.cwd()})')
        else:
            raise FileNotFoundError(
                f'{argument} {given!r} does not exist (seen from {Path.cwd()}); give an image file, a folder of '
                "images, or a pattern such as 'DIR/*.jpg'"
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _images(files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and file.is_file())


def spread(files: Sequence[Path], most: int) -> list[Path]:
    """Return ``most`` of the files at equal distances, because neighbours by name are often alike; or all.

    Example:
        >>> [file.name for file in spread([Path(name) for name in 'abcdefg'], 3)]
        ['a', 'c', 'e']
    """
    if len(files) <= most:
        return [*files]
    return [files[number * len(files) // most] for number in range(most)]
