"""Writing files so that an interrupted write leaves the old file, or none, but never half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move what is written there into place when the block ends well.

    Args:
        path: file to write; its folder is made.

    Raises:
        OSError: if it cannot be written; ``path`` is then as it was.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / 'model.pth'
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_bytes(b'weights')
        >>> target.read_bytes()
        b'weights'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        yield temporary
        with open(temporary, 'rb') as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend with whole-file writes: checkpoints of a runner are complete or absent.

    Example:
        >>> AtomicLocalBackend.__mro__[1].__name__
        'LocalBackend'
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file, as a whole."""
        with atomic_path(filepath) as temporary:
            temporary.write_bytes(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to a file, as a whole."""
        self.put(obj.encode(encoding), filepath)


def install_atomic_writes() -> None:
    """Make mmengine write local files through :class:`AtomicLocalBackend` in this process.

    Example:
        >>> install_atomic_writes()
    """
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')
