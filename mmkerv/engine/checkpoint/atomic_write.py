"""Atomic writing of files: after an interruption there is the old file or none, never half of one."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import LocalBackend

# What a user can do about an error of writing.
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), 'free some space, or write elsewhere'),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), 'make the folder writable, or write elsewhere'),
    errno.EFBIG: 'raise the limit on the size of files (ulimit -f), or write elsewhere',
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), 'a file is in the place of a folder: move it, or write elsewhere'),
    errno.EIO: 'check the disk, or write elsewhere',
}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename that file to ``path`` if the block raises nothing.

    Args:
        path: file to write; its folder is created.

    Raises:
        OSError: if it cannot be written, naming ``path`` and what to do. An existing file is left untouched.

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
            _flush_to_disk(temporary)
            os.replace(temporary, path)
            _flush_folder_to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise with_advice(error, path) from error


def save_checkpoint(content: Any, path: str | Path) -> None:
    """Write a checkpoint atomically.

    Args:
        content: object for ``torch.save``.
        path: file to write; its folder is created.

    Raises:
        OSError: see :func:`atomic_path`.

    Example:
        >>> import tempfile
        >>> save_checkpoint({'state_dict': {}}, Path(tempfile.mkdtemp(), 'model.pth'))
    """
    # On a full disk torch.save into a file raises an error of its own, which names neither file nor disk.
    stream = io.BytesIO()
    torch.save(content, stream)
    with atomic_path(path) as temporary:
        temporary.write_bytes(stream.getbuffer())


def with_advice(error: OSError, path: str | Path, then: str = '') -> OSError:
    """Return an error of writing with the file's name and what to do; other errors are returned unchanged.

    Args:
        error: raised by writing. Its own file name, if any, is that of the temporary file.
        path: file that was to be written.
        then: what to do after that, appended to the message.

    Example:
        >>> print(with_advice(OSError(errno.ENOSPC, 'No space left on device'), 'epoch_1.pth'))
        [Errno 28] No space left on device; earlier files are whole; free some space, or write elsewhere: 'epoch_1.pth'
    """
    if error.errno not in ADVICE:
        return error
    advice = f'; earlier files are whole; {ADVICE[error.errno]}'
    if advice in str(error):
        # It already has the advice and the file's name, from an inner call.
        return OSError(error.errno, f'{error.strerror}{then}', str(error.filename))
    return OSError(error.errno, f'{error.strerror}{advice}{then}', str(path))


def _flush_to_disk(path: Path) -> None:
    # fsync accepts any descriptor of a file, and a folder can be opened for reading only.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder_to_disk(folder: Path) -> None:
    """Write a folder's entries to the disk; some network file systems do not support it."""
    try:
        _flush_to_disk(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend with atomic writes: a runner's checkpoint is complete or absent.

    Example:
        >>> AtomicLocalBackend.__mro__[1].__name__
        'LocalBackend'
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file atomically."""
        with atomic_path(filepath) as temporary:
            temporary.write_bytes(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to a file atomically."""
        self.put(obj.encode(encoding), filepath)
