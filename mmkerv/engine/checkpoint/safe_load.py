"""Loading of checkpoints without running code in them.

``torch.load`` unpickles, and a pickle can run any code. mmengine's loader falls back to that silently; ours does not.
Files of the safetensors format hold tensors alone.
"""

import hashlib
import io
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get as read_bytes

from mmkerv.engine.checkpoint.layouts import plain_layout
from mmkerv.engine.checkpoint.unpickler import restricted_pickle
from mmkerv.errors import ConfigError, InstallationError, UnsafeCheckpointError
from mmkerv.ops.core.arguments import did_you_mean
from mmkerv.work_folder import require_checkpoint

# Hash of the content in the name of a released checkpoint, such as resnet18-f37072fd.pth.
CONTENT_HASH = re.compile(r'-[0-9a-f]{8}')
# A file of safetensors begins with the length of its header in eight bytes, and the header is JSON.
SAFETENSORS_START, LARGEST_HEADER = b'{', 10**8


def safe_load(file: str | Path | IO[bytes], map_location: Any = 'cpu', trust: bool = False) -> Any:
    """Load a checkpoint without running code in it.

    It may hold tensors, numbers, strings, containers and mmengine's message history. ``.safetensors`` files are read
    too.

    Args:
        file: path of a local file, or a binary stream.
        map_location: see ``torch.load``.
        trust: use the unrestricted unpickler, which runs any code in the file.

    Returns:
        The saved object.

    Raises:
        FileNotFoundError: if the file does not exist.
        UnsafeCheckpointError: if the file is damaged or holds anything else; nothing of it has been executed.
        InstallationError: for a ``.safetensors`` file without the library safetensors.

    Example:
        >>> import io
        >>> stream = io.BytesIO(); torch.save({'weight': torch.ones(2)}, stream)
        >>> _ = stream.seek(0); safe_load(stream)
        {'weight': tensor([1., 1.])}
    """
    name = getattr(file, 'name', type(file).__name__) if hasattr(file, 'read') else str(file)
    if not hasattr(file, 'read'):
        require_checkpoint(file, addresses=False)
    if _is_safetensors(file):
        return _load_safetensors(file, map_location, name)
    try:
        return torch.load(file, map_location, weights_only=False) if trust else _load_restricted(file, map_location)
    except OSError:
        raise
    # Damaged bytes raise errors of pickle, struct, codecs, numpy or torch, depending on where they are.
    except Exception as error:
        problem = f'checkpoint {name!r} was not read: it is damaged, or'
        if trust:
            raise UnsafeCheckpointError(f'{problem} needs code that is not here ({_reason(error)})') from error
        raise UnsafeCheckpointError(
            f'{problem} holds more than weights ({_reason(error)}). Nothing of it was executed. If you trust where it '
            'comes from, use --trust-checkpoint (trust=True in Python)'
        ) from error


def cached_file(address: str) -> Path:
    """Return where a checkpoint is kept that is downloaded from an address.

    Its name is that of the file, where torch looks too, if this carries a hash of the content. Any other gets a hash of
    the address: many addresses end in ``model.safetensors``.

    Example:
        >>> cached_file('https://host/resnet18-f37072fd.pth?download=1').name
        'resnet18-f37072fd.pth'
        >>> cached_file('https://host/a/model.safetensors').name, cached_file('https://host/b/model.safetensors').name
        ('model-7043817e.safetensors', 'model-833e301f.safetensors')
    """
    # Not urlsplit, which raises an error for an address that nobody has asked for yet.
    name = re.split('[?#]', address)[0].rpartition('/')[2]
    if not CONTENT_HASH.search(name):
        digest = hashlib.sha256(address.encode()).hexdigest()[:8]
        name = f'{PurePosixPath(name).stem}-{digest}{PurePosixPath(name).suffix}'
    return Path(torch.hub.get_dir()) / 'checkpoints' / name


def web_address(source: str) -> str | None:
    """Return the address that a checkpoint is downloaded from; of a file, or of another storage, ``None``.

    Args:
        source: file or address, such as ``torchvision://resnet50`` or ``open-mmlab://resnet50_caffe``.

    Raises:
        ConfigError: for a name that the list of such checkpoints does not have.

    Example:
        >>> web_address('torchvision://resnet18').rpartition('/')[2]
        'resnet18-f37072fd.pth'
        >>> web_address('epoch_12.pth') is None
        True
    """
    scheme, separator, name = source.partition('://')
    if not separator or scheme in ('http', 'https'):
        return source if separator else None
    lists = {
        **dict.fromkeys(('torchvision', 'modelzoo'), mmengine_checkpoint.get_torchvision_models),
        **dict.fromkeys(('open-mmlab', 'openmmlab'), mmengine_checkpoint.get_external_models),
        'mmcls': mmengine_checkpoint.get_mmcls_models,
    }
    if scheme not in lists:
        return None
    known = lists[scheme]()
    if lists[scheme] is mmengine_checkpoint.get_external_models:
        name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    if name not in known:
        raise ConfigError(f'checkpoint {source!r} is not known{did_you_mean(name, known)} Give another name, or a file')
    return known[name] if '://' in known[name] else None


def checkpoint_loaders(trust: bool = False) -> dict[str, Callable[..., Any]]:
    """Return loaders for mmengine's ``CheckpointLoader`` that read through :func:`safe_load`, by prefix of the address.

    Args:
        trust: see :func:`safe_load`.

    Example:
        >>> checkpoint_loaders()['https://'].__name__
        'load_from_http'
    """

    def read(file: Path | IO[bytes], map_location: Any) -> Any:
        checkpoint = plain_layout(safe_load(file, map_location or 'cpu', trust))
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if not trust and isinstance(meta, dict):
            # Runner.resume executes this text, written by mmcv 1 only, as a Python config.
            meta.pop('config', None)
        return checkpoint

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return read(Path(filename).expanduser(), map_location)

    def load_from_http(filename: str, map_location: Any = None, **_: Any) -> Any:
        cached = cached_file(filename)
        # As in mmengine, one process downloads for all; here it is one on each machine, which has its own cache.
        try:
            if int(os.environ.get('LOCAL_RANK', get_rank())) == 0:
                _download(filename, cached)
        finally:
            # Without it the others would wait for a process that has failed.
            barrier()
        _download(filename, cached)
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

    return {
        '': load_from_local,
        **dict.fromkeys(('http://', 'https://'), load_from_http),
        **dict.fromkeys(('open-mmlab://', 'openmmlab://'), load_from_openmmlab),
        **dict.fromkeys((r'(\S+\:)?s3://', r'(\S+\:)?petrel://', 'pavi://'), load_from_storage),
    }


def _download(address: str, file: Path) -> None:
    """Download a checkpoint to a file, unless it is there."""
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(address, str(file))
    except OSError as error:
        raise ConnectionError(
            f'checkpoint {address!r} was not downloaded: {error}. Give the path of a file instead, put the file at '
            f'{file}, or train from random weights: --no-pretrained'
        ) from error


def _is_safetensors(file: Any) -> bool:
    """Return whether a file is of the safetensors format, by its name or its first bytes."""
    with torch.serialization._open_file_like(file, 'rb') as stream:
        start = stream.tell()
        head = stream.read(9)
        stream.seek(start)
    by_content = head[8:] == SAFETENSORS_START and int.from_bytes(head[:8], 'little') <= LARGEST_HEADER
    return by_content or str(getattr(file, 'name', file)).endswith('.safetensors')


def _load_safetensors(file: Any, map_location: Any, name: str) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise InstallationError(
            f'checkpoint {name!r} is of the safetensors format, and the library safetensors is missing; '
            'pip install safetensors'
        ) from error
    try:
        weights = load(file.read() if hasattr(file, 'read') else Path(file).read_bytes())
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise UnsafeCheckpointError(
            f'checkpoint {name!r} was not read: it is damaged ({error}); copy or download it again'
        ) from error
    if map_location in (None, 'cpu'):
        return weights
    if isinstance(map_location, (str, torch.device)):
        return {key: value.to(map_location) for key, value in weights.items()}
    # As torch.load does for a dict of names or a function.
    restore = torch.serialization._get_restore_location(map_location)
    return {key: value.to(restore(value.untyped_storage(), 'cpu').device) for key, value in weights.items()}


def _reason(error: Exception) -> str:
    """Return the part of torch's long message that gives the cause."""
    text = str(error).rpartition('WeightsUnpickler error:')[2].strip() or type(error).__name__
    name = re.search(r'GLOBAL (\S+)', text)
    return f'it names {name[1]}' if name else text.splitlines()[0].split('. ')[0]


def _load_restricted(file: Any, map_location: Any) -> Any:
    # Not weights_only=True: that unpickler checks names only, and a file can make numpy take its bytes for pointers.
    settings = dict(map_location=map_location, weights_only=False)
    with torch.serialization._open_file_like(file, 'rb') as stream:
        start = stream.tell()
        if not torch.serialization._is_zipfile(stream):
            # torch.load would unpack a tar archive, the format of torch 0.1, to disk.
            is_tar = tarfile.is_tarfile(stream)
            stream.seek(start)
            if is_tar:
                raise pickle.UnpicklingError('it is a tar archive')
            return torch.load(stream, pickle_module=restricted_pickle(), **settings)
        with torch.serialization._open_zipfile_reader(stream) as archive:
            # torch.load passes TorchScript archives to torch.jit.load, which runs their code with any unpickler.
            if torch.serialization._is_torchscript_zip(archive):
                raise pickle.UnpicklingError('it is a TorchScript archive')
            stream.seek(start)
            # torch from 2.6 on, which has this function, compares the sizes of storages and records itself.
            compares_sizes = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')
            return torch.load(file, pickle_module=restricted_pickle(None if compares_sizes else archive), **settings)
