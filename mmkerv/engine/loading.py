"""Reading checkpoints without executing what they hold.

``torch.load`` unpickles, and a pickle can run any code. mmengine's loader falls back to that silently; ours does not.
"""

import functools
import io
import pickle
import re
import types
from collections import Counter
from pathlib import Path
from typing import IO, Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import torch
from mmengine.fileio import get as read_bytes
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import nn


class UnsafeCheckpointError(RuntimeError):
    """A checkpoint is damaged, or names something other than weights and mmengine's records.

    Example:
        >>> issubclass(UnsafeCheckpointError, RuntimeError)
        True
    """


def safe_load(file: str | Path | IO[bytes], map_location: Any = 'cpu', trust: bool = False) -> Any:
    """Read a checkpoint that holds tensors, numbers, strings, containers and mmengine's message history, nothing else.

    Args:
        file: path of a local file, or a binary stream.
        map_location: as ``torch.load`` has it.
        trust: read it with the unrestricted unpickler, which runs whatever the file says.

    Returns:
        What was saved.

    Raises:
        FileNotFoundError: if there is no such file.
        UnsafeCheckpointError: if the file is damaged or names anything else; nothing of it has been executed.

    Example:
        >>> import io
        >>> stream = io.BytesIO(); torch.save({'weight': torch.ones(2)}, stream)
        >>> _ = stream.seek(0); safe_load(stream)
        {'weight': tensor([1., 1.])}
    """
    name = getattr(file, 'name', type(file).__name__) if hasattr(file, 'read') else str(file)
    if not hasattr(file, 'read') and not Path(file).is_file():
        raise FileNotFoundError(f'checkpoint {name!r} does not exist; give the path of a .pth file')
    try:
        return torch.load(file, map_location, weights_only=False) if trust else _load_restricted(file, map_location)
    except OSError:
        raise
    # What a damaged file ends in depends on the byte: errors of pickle, struct, codecs, numpy and torch were all seen.
    except Exception as error:
        found = f'checkpoint {name!r} was not read: it is damaged, or'
        if trust:
            raise UnsafeCheckpointError(f'{found} needs code that is not here ({_reason(error)})') from error
        raise UnsafeCheckpointError(
            f'{found} holds more than weights ({_reason(error)}). Nothing of it was executed. If you trust where it '
            'comes from, use --trust-checkpoint (trust=True in Python)'
        ) from error


def install_safe_loading(trust: bool = False) -> None:
    """Make every checkpoint that mmengine's runner reads in this process go through :func:`safe_load`.

    Args:
        trust: as :func:`safe_load` has it.

    Example:
        >>> install_safe_loading()
    """

    def read(file: Path | IO[bytes], map_location: Any) -> Any:
        checkpoint = safe_load(file, map_location or 'cpu', trust)
        if not trust and isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
            # Runner.resume runs this text, which mmcv 1 wrote and mmengine does not, as a Python program.
            checkpoint['meta'].pop('config', None)
        return checkpoint

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return read(Path(filename).expanduser(), map_location)

    def load_from_http(filename: str, map_location: Any = None, **_: Any) -> Any:
        cached = Path(torch.hub.get_dir()) / 'checkpoints' / filename.rpartition('/')[2]
        if not cached.is_file():
            cached.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(filename, str(cached))
            except OSError as error:
                raise ConnectionError(
                    f'checkpoint {filename!r} was not downloaded: {error}. Give the path of a file instead, or put the '
                    f'file at {cached}'
                ) from error
        return load_from_local(str(cached), map_location)

    def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
        name = filename.partition('://')[2]
        name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
        address = mmengine_checkpoint.get_external_models()[name]
        if address.startswith(('http://', 'https://')):
            return load_from_http(address, map_location)
        return load_from_local(str(Path(mmengine_checkpoint._get_mmengine_home(), address)), map_location)

    def load_from_storage(filename: str, map_location: Any = None, **_: Any) -> Any:
        stream = io.BytesIO(read_bytes(filename))
        stream.name = filename
        return read(stream, map_location)

    for prefixes, loader in (
        ('', load_from_local),
        (('http://', 'https://'), load_from_http),
        (('open-mmlab://', 'openmmlab://'), load_from_openmmlab),
        ((r'(\S+\:)?s3://', 'pavi://'), load_from_storage),
    ):
        CheckpointLoader.register_scheme(prefixes=prefixes, loader=loader, force=True)
    # The other schemes (torchvision://, mmcls://) look their address up and call this by its name.
    mmengine_checkpoint.load_from_http = load_from_http


def restricted_load(file: IO[bytes]) -> Any:
    """Read a pickle of numbers, strings, arrays and containers.

    Raises:
        Exception: whatever a damaged file ends in; ``pickle.UnpicklingError`` for one that names anything else.

    Example:
        >>> restricted_load(io.BytesIO(pickle.dumps([1, 'a'], 2)))
        [1, 'a']
    """
    return _restricted_pickle().load(file)


def _reason(error: Exception) -> str:
    """The one line of torch's long message that says what was found."""
    text = str(error).rpartition('WeightsUnpickler error:')[2].strip() or type(error).__name__
    found = re.search(r'GLOBAL (\S+)', text)
    return f'it names {found[1]}' if found else text.splitlines()[0].split('. ')[0]


def _allowed() -> dict[str, Any]:
    """Return what mmengine's checkpoints name beyond tensors: the message hub's buffers and numpy's numbers."""
    core = np._core if int(np.__version__.partition('.')[0]) >= 2 else np.core
    # An array of objects, or of fields that may hold them, is numbers no more.
    kinds = [kind for kind in {np.bool_, *np.sctypeDict.values()} if not issubclass(kind, (np.object_, np.void))]
    found = {_path(item): item for item in (HistoryBuffer, np.ndarray, np.dtype, slice)}
    found |= {_path(type(np.dtype(kind))): type(np.dtype(kind)) for kind in kinds}
    # numpy 2 moved them, and a checkpoint says where the numpy that wrote it had them.
    for package in ('numpy.core', 'numpy._core'):
        found[f'{package}.multiarray._reconstruct'] = core.multiarray._reconstruct
        found[f'{package}.multiarray.scalar'] = core.multiarray.scalar
    # A HistoryBuffer stores its statistics as functions of its own class, pickled as getattr(HistoryBuffer, name).
    return {**found, 'builtins.getattr': _history_function}


def _path(item: Any) -> str:
    return f'{item.__module__}.{item.__qualname__}'


def _history_function(owner: Any, name: str) -> Any:
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(owner, name)


def _load_restricted(file: Any, map_location: Any) -> Any:
    _refuse_torchscript(file)
    if hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
        with torch.serialization.safe_globals([(item, name) for name, item in _allowed().items()]):
            return torch.load(file, map_location=map_location, weights_only=True)
    return torch.load(file, map_location=map_location, pickle_module=_restricted_pickle())


def _refuse_torchscript(file: Any) -> None:
    # torch before 2.6 hands such archives to torch.jit.load, which runs the code in them, whatever the unpickler is.
    with torch.serialization._open_file_like(file, 'rb') as stream:
        if not torch.serialization._is_zipfile(stream):
            return
        start = stream.tell()
        with torch.serialization._open_zipfile_reader(stream) as archive:
            torchscript = torch.serialization._is_torchscript_zip(archive)
        stream.seek(start)
    if torchscript:
        raise pickle.UnpicklingError('it is a TorchScript archive')


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 of pickle, which torch uses, writes bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'encoding {encoding!r} is not allowed')
    return text.encode(encoding)


@functools.cache
def _restricted_pickle() -> types.SimpleNamespace:
    """A stand-in for the pickle module that finds only allowed names, for torch before 2.6."""
    from torch._weights_only_unpickler import _get_allowed_globals

    found = {**_get_allowed_globals(), **_allowed(), '_codecs.encode': _encode_latin1}
    for item in (
        *(torch.storage.TypedStorage, torch.storage.UntypedStorage, nn.Parameter, torch.device),
        *(Counter, bytearray, complex, set),
    ):
        found[_path(item)] = item
    allowed = {id(item) for item in found.values()}

    # Python's own unpickler in Python: the one in C calls, and fills in, whatever a pickle has put on its stack.
    class Unpickler(pickle._Unpickler):
        dispatch = pickle._Unpickler.dispatch.copy()

        def find_class(self, module: str, name: str) -> Any:
            # Protocol 2 writes Python 2's name of builtins.
            key = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
            if key not in found:
                raise pickle.UnpicklingError(f'GLOBAL {key} is not allowed')
            return found[key]

        def load_reduce(self) -> None:
            self._check(self.stack[-2])
            super().load_reduce()

        def load_build(self) -> None:
            self._check(type(self.stack[-2]))
            super().load_build()

        def _check(self, item: Any) -> None:
            if id(item) not in allowed:
                raise pickle.UnpicklingError(f'{item!r} is not allowed')

        dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build}
        for code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
            del dispatch[code[0]]

    def load(stream: IO[bytes], **kwargs: Any) -> Any:
        return Unpickler(stream, **kwargs).load()

    return types.SimpleNamespace(Unpickler=Unpickler, load=load, __name__='restricted pickle')
