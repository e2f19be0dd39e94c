"""Files of a training's work folder: its config and its checkpoints, found by their names."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from mmkerv.errors import ConfigError

# File in a work folder that holds the path of the last checkpoint.
LAST_CHECKPOINT = 'last_checkpoint'
DEPLOY_CONFIG = 'deploy.py'
# A config in one of these formats is written as it was read.
DATA_SUFFIXES = ('.json', '.yaml', '.yml')
# Keys that every config has which a training writes, and bytes that none needs.
KEYS, LARGEST = ('model', 'work_dir'), 2**22


def configs_of(folder: str | Path) -> list[Path]:
    """Return the configs that trainings have written into a folder, newest first.

    A config beside a checkpoint of its name is that of a folded or decomposed network, and is left out.

    Args:
        folder: work folder.

    Example:
        >>> configs_of('absent')
        []
    """
    files = [file for file in Path(folder).glob('*.py') if file.name != DEPLOY_CONFIG]
    files = [file for file in files if not file.with_suffix('.pth').is_file()]
    files += [file for file in Path(folder).glob('*') if file.suffix in DATA_SUFFIXES and _is_config(file)]
    return sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)


def _is_config(file: Path) -> bool:
    """Tell whether a data file is the config of a training: metrics, predictions and records lie beside it too."""
    if not file.is_file() or file.stat().st_size > LARGEST:
        return False
    text = file.read_text(encoding='utf-8', errors='replace')
    if file.suffix != '.json':
        return all(re.search(rf'^{key}:', text, re.MULTILINE) for key in KEYS)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(key in content for key in KEYS)


def written_networks(folder: str | Path) -> list[Path]:
    """Return the configs in a folder that lie beside a checkpoint of their name, as the fold tool writes them.

    Example:
        >>> written_networks('absent')
        []
    """
    return [file for file in sorted(Path(folder).glob('*.py')) if file.with_suffix('.pth').is_file()]


def named_checkpoint(folder: str | Path) -> Path | None:
    """Return the checkpoint that a run's ``last_checkpoint`` names, or ``None`` if it is not there.

    Args:
        folder: ``work_dir`` of the run; if it was moved or copied, its own copy counts.

    Example:
        >>> named_checkpoint('absent') is None
        True
    """
    marker = Path(folder, LAST_CHECKPOINT)
    if not marker.is_file():
        return None
    named = Path(marker.read_text(errors='replace').strip())
    return next((file for file in (marker.with_name(named.name), named) if file.is_file()), None)


def require_checkpoint(file: str | Path, addresses: bool = True) -> None:
    """Refuse a checkpoint that does not exist.

    Args:
        file: path.
        addresses: whether an address (``https://...``) passes.

    Raises:
        FileNotFoundError: naming it.

    Example:
        >>> require_checkpoint('https://host/epoch_12.pth')
    """
    # mmengine takes the home folder for ~ in load_from.
    path = Path(file).expanduser()
    if not (addresses and '://' in str(file)) and not path.is_file():
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise FileNotFoundError(f'checkpoint {str(file)!r} {what}; give the path of a .pth file')


def require_not_read(written: Iterable[str | Path], read: Iterable[str | Path], argument: str) -> None:
    """Refuse to write over a file that is read.

    Args:
        written: files to write.
        read: files to read.
        argument: name of the argument that gives the former, for the message.

    Raises:
        ConfigError: naming the argument and the file.

    Example:
        >>> require_not_read(['cam.png'], ['image.png'], '--save-path')
    """
    sources = {Path(file).resolve() for file in read}
    for file in written:
        if Path(file).resolve() in sources:
            raise ConfigError(
                f'{argument}: {str(file)!r} is read, and would be overwritten; give another name or folder'
            )


def best_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints of the best evaluations, one for each metric of ``save_best``.

    Example:
        >>> best_checkpoints('absent')
        []
    """
    return sorted(Path(folder).glob('best_*.pth'))


def other_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints of a folder but for the best ones and those of :func:`written_networks`.

    Example:
        >>> other_checkpoints('absent')
        []
    """
    left_out = {*best_checkpoints(folder), *(file.with_suffix('.pth') for file in written_networks(folder))}
    return [file for file in sorted(Path(folder).glob('*.pth')) if file not in left_out]
