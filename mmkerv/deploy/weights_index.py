"""``index.json`` of a folder of published weights: what is in it, and the hash of every file."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmkerv.errors import ConfigError, UnsafeCheckpointError
from mmkerv.utils import printable
from mmkerv.version import __version__

INDEX, FORMAT, VERSION = 'index.json', 'mmkerv weights', 1
TRAINED, FOLDED = 'trained', 'folded'
# Names of files: those of the folder itself, on every system.
FILE = re.compile(r'[A-Za-z0-9_][A-Za-z0-9._-]*')
SHA256 = re.compile(r'[0-9a-f]{64}')


class File(NamedTuple):
    """A file of the folder.

    Args:
        name: its name.
        size: number of bytes.
        sha256: its SHA-256 in hexadecimal.

    Example:
        >>> File.of('a.md', b'text').size
        4
    """

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, content: bytes) -> 'File':
        """Return the record of a file with this content."""
        return cls(name, len(content), hashlib.sha256(content).hexdigest())


def write_index(folder: Path, networks: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write the index.

    Args:
        folder: folder of the weights.
        networks: what is known of each network, by name.
        facts: what is known of all of them.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()); write_index(folder, {}, {}); read_index(folder)['networks']
        {}
    """
    content = {'format': FORMAT, 'version': VERSION, 'mmkerv': __version__, **facts, 'networks': networks}
    (folder / INDEX).write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def read_index(folder: str | Path) -> dict[str, Any]:
    """Read the index of a folder of weights.

    Raises:
        FileNotFoundError: if the folder or its index is not there.
        ConfigError: if the index is damaged, something else, or of a later version of mmkerv.

    Example:
        >>> read_index('absent')
        Traceback (most recent call last):
        ...
        FileNotFoundError: folder 'absent' does not exist; give the folder of the weights, with its index.json
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f'folder {str(folder)!r} does not exist; give the folder of the weights, with its {INDEX}'
        )
    file = folder / INDEX
    if not file.is_file():
        raise FileNotFoundError(
            f'{str(folder)!r} has no {INDEX}, so it holds no published weights; give the folder that has it, or make '
            'one: mmkerv release WORK_DIR --out FOLDER'
        )
    again = 'copy or download the folder again'
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f'{str(file)!r} cannot be read: {printable(str(error))}; {again}') from error
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ConfigError(f'{str(file)!r} is no index of published weights; give the folder that mmkerv release wrote')
    version = content.get('version')
    if isinstance(version, int) and version > VERSION:
        raise ConfigError(
            f'{str(file)!r} has version {version}, written by mmkerv {printable(str(content.get("mmkerv")))}; mmkerv '
            f'{__version__} reads version {VERSION}: install a later mmkerv'
        )
    networks = content.get('networks')
    is_whole = version == VERSION and isinstance(networks, dict)
    if not is_whole or not all(FILE.fullmatch(name) and _is_network(each) for name, each in networks.items()):
        raise ConfigError(f'{str(file)!r} is damaged: it lacks the files of a network; {again}')
    return content


def _is_network(network: Any) -> bool:
    forms = network.get('forms') if isinstance(network, dict) else None
    if not isinstance(forms, dict) or not forms or not set(forms) <= {TRAINED, FOLDED}:
        return False
    return all(
        isinstance(form, dict) and all(_file_of(form.get(part)) is not None for part in ('config', 'weights'))
        for form in forms.values()
    )


def _file_of(record: Any) -> File | None:
    """Return the file that a record in the index describes, or ``None`` if it describes none in the folder."""
    if not isinstance(record, dict):
        return None
    name, size, digest = (record.get(key) for key in File._fields)
    if not (isinstance(name, str) and FILE.fullmatch(name)):
        return None
    if not (isinstance(size, int) and isinstance(digest, str) and SHA256.fullmatch(digest)):
        return None
    return File(name, size, digest)


def read_file(folder: str | Path, record: Any) -> bytes:
    """Return the content of a file of the folder, if it is what the index says.

    Args:
        folder: folder of the weights.
        record: its record in the index: ``name``, ``size``, ``sha256``.

    Raises:
        FileNotFoundError: if it is not there.
        UnsafeCheckpointError: if its size or its hash is another one. Nothing of it has been interpreted.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()); _ = (folder / 'a.md').write_bytes(b'text')
        >>> read_file(folder, File.of('a.md', b'text')._asdict())
        b'text'
    """
    file = _file_of(record)
    if file is None:
        raise ConfigError(f'{INDEX} of {str(folder)!r} is damaged: {printable(str(record))} describes no file')
    path = Path(folder, file.name)
    if not path.is_file():
        raise FileNotFoundError(f'{str(path)!r} is missing, which {INDEX} names; copy or download the folder again')
    again = 'Nothing of it was read; copy or download it again'
    if (size := path.stat().st_size) != file.size:
        raise UnsafeCheckpointError(f'{str(path)!r} is damaged: {size:,} bytes, {INDEX} says {file.size:,}. {again}')
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != file.sha256:
        raise UnsafeCheckpointError(
            f'{str(path)!r} is damaged or was replaced: its SHA-256 begins with {digest[:8]}, {INDEX} says '
            f'{file.sha256[:8]}. {again}'
        )
    return content
