"""Writing files so that an interrupted write leaves the old file, or none, but never half of one."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import LocalBackend, register_backend

CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), 'free some space, or write elsewhere'),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), 'make the folder writable, or write elsewhere'),
    errno.EFBIG: 'raise the limit on the size of files (ulimit -f), or write elsewhere',
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), 'a file stands in place of a folder: move it, or write elsewhere'),
    errno.EIO: 'look at the disk, or write elsewhere',
}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move what is written there into place when the block ends well.

    Args:
        path: file to write; its folder is made.

    Raises:
        OSError: if it cannot be written, naming ``path``, which is then as it was, and the cure.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / 'model.pth'
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_bytes(b'weights')
        >>> target.read_bytes()
        b'weights'
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _to_disk(temporary)
            os.replace(temporary, path)
            _folder_to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise with_cure(error, path) from error


def save_checkpoint(content: Any, path: str | Path) -> None:
    """Write a checkpoint as a whole.

    Args:
        content: what ``torch.save`` takes.
        path: file to write; its folder is made.

    Raises:
        OSError: as :func:`atomic_path` raises it.

    Example:
        >>> import tempfile
        >>> save_checkpoint({'state_dict': {}}, Path(tempfile.mkdtemp(), 'model.pth'))
    """
    # torch.save into a file on a full disk raises an error of its own kind, which names neither file nor disk.
    stream = io.BytesIO()
    torch.save(content, stream)
    with atomic_path(path) as temporary:
        temporary.write_bytes(stream.getbuffer())


def with_cure(error: OSError, path: str | Path, then: str = '') -> OSError:
    """Return the error of a full disk or a folder that cannot be written with the file and the cure, others unchanged.

    Args:
        error: what writing raised; its own file name says nothing to the user, if it has one.
        path: what was to be written.
        then: what to do when that is mended.

    Example:
        >>> print(with_cure(OSError(errno.ENOSPC, 'No space left on device'), 'epoch_1.pth'))
        [Errno 28] No space left on device; earlier files are whole; free some space, or write elsewhere: 'epoch_1.pth'
    """
    if error.errno not in CURES:
        return error
    cure = f'; earlier files are whole; {CURES[error.errno]}'
    # It may have come through here already, nearer to the file.
    place, cure = (error.filename, '') if cure in str(error) else (path, cure)
    return OSError(error.errno, f'{error.strerror}{cure}{then}', str(place))


def _to_disk(path: Path) -> None:
    # A file may be synchronised by any descriptor; a folder has no other.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folder_to_disk(folder: Path) -> None:
    """A new name is on the disk when its folder is; some network file systems have no such thing, and refuse."""
    try:
        _to_disk(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


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
