"""The network that a command takes: ``CONFIG CHECKPOINT``, or the work folder of a training alone.

It imports nothing large, as all that parsers need.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmkerv.config_files import require_config
from mmkerv.errors import ConfigError
from mmkerv.work_folder import (
    LAST_CHECKPOINT,
    best_checkpoints,
    configs_of,
    named_checkpoint,
    other_checkpoints,
    require_checkpoint,
    written_networks,
)

CONFIG_HELP = 'config file, or LIBRARY::FILE of an installed library; or the work folder of a training, for both files'
CHECKPOINT_HELP = "checkpoint of the config's network; of a work folder: the best one, else the last"
# Names of files that may follow a work folder on the command line as its checkpoint.
CHECKPOINTS = ('.pth', '.pt', '.ckpt', '.safetensors')


class Network(NamedTuple):
    """Names of the arguments of a network, and whether it needs a checkpoint."""

    config: str
    checkpoint: str
    needed: bool


class NetworkParser(argparse.ArgumentParser):
    """Parser of a command that takes a network. What it returns names files: work folders are replaced by theirs.

    ``work_folder`` of what it returns is the folder, ``None`` if files were given.

    Flags may stand between the arguments, as in ``fold CONFIG --shape 32 32 CHECKPOINT OUT``: argparse itself takes an
    argument that may be left out for absent there (before Python 3.12.8).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.networks: list[Network] = []
        self.pairs: list[str] = []
        self.nested = False

    def add_network(self, config: str = 'config', checkpoint: str = 'checkpoint', default: str = '') -> None:
        """Add the arguments ``CONFIG [CHECKPOINT]``.

        Args:
            config: name of the first.
            checkpoint: name of the second, which may be left out for a work folder.
            default: weights without a checkpoint, in words; empty if it is needed.
        """
        self.add_argument(config, help=CONFIG_HELP)
        self.add_argument(checkpoint, nargs='?', help=CHECKPOINT_HELP + (f'; default: {default}' if default else ''))
        self.networks.append(Network(config, checkpoint, not default))

    def add_second_network(self, option: str, help: str) -> None:
        """Add an option that takes ``CONFIG CHECKPOINT`` or a work folder."""
        help = f'{help}; or its work folder alone'
        self.add_argument(option, nargs=2, metavar=('CONFIG', 'CHECKPOINT'), help=help)
        self.pairs.append(option)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """Parse, and find the files of work folders."""
        found = super().parse_args(args, namespace)
        for config, checkpoint, needed in self.networks:
            given = getattr(found, config), getattr(found, checkpoint)
            found.work_folder = given[0] if Path(given[0]).is_dir() else None
            if needed and given[1] is None and found.work_folder is None:
                self.error(f'{checkpoint} is required: {config} {given[0]!r} is no work folder of a training')
            for name, value in zip((config, checkpoint), network_files(*given)):
                setattr(found, name, value)
        for option in self.pairs:
            name = option.lstrip('-').replace('-', '_')
            if pair := getattr(found, name):
                if not pair[1] and not Path(pair[0]).is_dir():
                    self.error(f'{option} takes CONFIG CHECKPOINT or a work folder, and {pair[0]!r} is no folder')
                setattr(found, name, list(network_files(pair[0], pair[1] or None)))
        return found

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse flags first, then the arguments between them."""
        if self.nested or not any(action.nargs in ('?', '*') for action in self._get_positional_actions()):
            return super().parse_known_args(args, namespace)
        self.nested = True
        try:
            words = list(sys.argv[1:] if args is None else args)
            return self.parse_known_intermixed_args(self._completed(words), namespace)
        finally:
            self.nested = False

    def _completed(self, words: list[str]) -> list[str]:
        """Return the words with an empty one for the checkpoint that is not given of a second network."""
        completed = []
        for position, word in enumerate(words):
            completed.append(word)
            if position and words[position - 1] in self.pairs and not word.startswith('-'):
                following = ''.join(words[position + 1 : position + 2])
                is_last = not following or following.startswith('-')
                if is_last or (Path(word).is_dir() and not following.endswith(CHECKPOINTS)):
                    completed.append('')
        return completed


def network_files(config: str, checkpoint: str | None = None, needed: bool = True) -> tuple[str, str | None]:
    """Return config and checkpoint as they are given, or those of a work folder, which one line on stderr names.

    Args:
        config: config file, or the work folder of a training, or a folder that holds a folded network alone.
        checkpoint: checkpoint; ``None`` for that of the folder: the best one, else the last.
        needed: whether a checkpoint is looked for.

    Raises:
        FileNotFoundError: if a file does not exist, or the folder holds no config, or no checkpoint.
        ConfigError: if it holds several of them, and nothing tells which one is meant.

    Example:
        >>> network_files('mmdet::yolox/yolox_s_8xb8-300e_coco.py', 'https://host/a.pth')
        ('mmdet::yolox/yolox_s_8xb8-300e_coco.py', 'https://host/a.pth')
    """
    folder = Path(config)
    if checkpoint is not None:
        require_checkpoint(checkpoint)
    if not folder.is_dir():
        require_config(config)
        return config, checkpoint
    file = config_in(folder)
    kind = ''
    if checkpoint is None and needed:
        own = file.with_suffix('.pth')
        path, kind = (own, 'written with it') if own.is_file() else _checkpoint_in(folder)
        checkpoint = str(path)
    _tell(f'{config}: config {file.name}' + (f', checkpoint {Path(checkpoint).name} ({kind})' if kind else ''))
    return str(file), checkpoint


def config_in(folder: Path) -> Path:
    """Return the config in a folder.

    Raises:
        FileNotFoundError: if there is none.
        ConfigError: if there are several.

    Example:
        >>> config_in(Path('absent'))
        Traceback (most recent call last):
        ...
        FileNotFoundError: absent holds no config (NAME.py); give the work folder of a training, or CONFIG CHECKPOINT
    """
    files = configs_of(folder) or written_networks(folder)
    if not files:
        raise FileNotFoundError(
            f'{folder} holds no config (NAME.py); give the work folder of a training, or CONFIG CHECKPOINT'
        )
    if len(files) > 1:
        raise ConfigError(f'{folder} holds several configs: {_names(files)}; give one of them: CONFIG CHECKPOINT')
    return files[0]


def checkpoint_of(file: str) -> str:
    """Return a checkpoint as it is given, or that of a work folder, which one line on stderr names.

    Raises:
        FileNotFoundError: if the file does not exist, or the folder holds none.
        ConfigError: if it holds several, and nothing tells which one is meant.

    Example:
        >>> checkpoint_of('https://host/epoch_12.pth')
        'https://host/epoch_12.pth'
    """
    if not Path(file).is_dir():
        require_checkpoint(file)
        return file
    path, kind = _checkpoint_in(Path(file))
    _tell(f'{file}: checkpoint {path.name} ({kind})')
    return str(path)


def _checkpoint_in(folder: Path) -> tuple[Path, str]:
    """Return the checkpoint of a work folder and what it is."""
    best = best_checkpoints(folder)
    if len(best) == 1:
        return best[0], 'the best one'
    if best:
        raise ConfigError(
            f'{folder} holds several best checkpoints: {_names(best)}; give one of them: CONFIG CHECKPOINT'
        )
    if last := named_checkpoint(folder):
        return last, 'the last one'
    others = other_checkpoints(folder)
    if len(others) == 1:
        return others[0], 'the only one'
    if others:
        raise ConfigError(
            f'{folder} holds several checkpoints, and {LAST_CHECKPOINT} names none of them: {_names(others)}; give one '
            'of them: CONFIG CHECKPOINT'
        )
    raise FileNotFoundError(
        f'{folder} holds no checkpoint (NAME.pth); train first, or give CONFIG CHECKPOINT with one from elsewhere'
    )


def _names(files: list[Path]) -> str:
    names = ', '.join(file.name for file in files[:3])
    return f'{names} and {len(files) - 3} more' if len(files) > 3 else names


def _tell(text: str) -> None:
    # On stderr, because some commands print tables; by one of several processes.
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(f'mmkerv: {text}', file=sys.stderr)
