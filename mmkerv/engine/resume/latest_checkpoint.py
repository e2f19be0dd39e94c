"""Which checkpoint ``--resume`` goes on from: the last that is complete, whatever interrupted the run."""

import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.engine.checkpoint.finite import first_nan
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.resume.stop_signal_hook import NAME
from mmkerv.errors import ConfigError, UnsafeCheckpointError
from mmkerv.utils import log, printable

MARKER = 'last_checkpoint'
NEEDED = ('meta', 'state_dict', 'message_hub')
# How mmengine writes the time of a checkpoint into it.
TIME = re.compile(r'\d{8}_\d{6}')


class Position(NamedTuple):
    """Where in a run a checkpoint was written: iteration and time, ``''`` where it does not say."""

    iteration: int
    time: str


def latest_checkpoint(cfg: Config, trust: bool = False) -> str | None:
    """Return the last complete checkpoint of ``cfg.work_dir``, and remove what a killed run has left half written.

    It is the one that ``last_checkpoint`` names, or one of the runner that is newer and of a later iteration: a run can
    be killed after it has written a checkpoint and before it has written the name. If the named one is missing or
    damaged, it is the newest that is complete, and a warning names both. It is named in ``last_checkpoint`` then.

    Args:
        cfg: config with ``work_dir``; ``default_hooks.checkpoint`` says where and how checkpoints are named.
        trust: as :func:`~mmkerv.engine.safe_load` has it.

    Returns:
        Its path, or ``None`` if the run has not written any: it begins from the start.

    Raises:
        ConfigError: if there are checkpoints and none is complete, saying what each of the last is.

    Example:
        >>> import tempfile
        >>> latest_checkpoint(Config(dict(work_dir=tempfile.mkdtemp()))) is None
        True
    """
    work_dir = Path(cfg.work_dir)
    marker = work_dir / MARKER
    named = marker.read_text(errors='replace').strip() if marker.is_file() else ''
    if '://' in named:
        return named
    files = _written(cfg)
    damaged: dict[str, str] = {}
    if named:
        # A work_dir that was moved or copied has its own checkpoints.
        last = next((p for p in (work_dir / Path(named).name, Path(named)) if p.is_file()), Path(named))
        place, reason = _inspect(last, trust)
        if reason is None:
            since = marker.stat().st_mtime_ns
            for file in files:
                if file.stat().st_mtime_ns > since and file.resolve() != last.resolve():
                    later, reason = _inspect(file, trust)
                    # A folder that was copied without its times may hold checkpoints of an earlier run.
                    if reason is None and later.iteration > place.iteration and later.time >= place.time:
                        log(f'mmkerv: {file} is complete and later than {last}, which {MARKER} names: resuming from it')
                        return _named(marker, file)
            return str(last)
        damaged[str(last)] = reason
    for file in files:
        if str(file) in damaged or str(file.resolve()) in damaged:
            continue
        reason = _inspect(file, trust)[1]
        if reason is None:
            said = '; '.join(f'{name} {why}' for name, why in damaged.items()) or f'{MARKER} names none'
            log(f'mmkerv: resuming from {file}, the newest complete checkpoint: {said}', logging.WARNING)
            return _named(marker, file)
        damaged[str(file)] = reason
    if damaged:
        said = '; '.join(f'{name} {why}' for name, why in list(damaged.items())[:3])
        raise ConfigError(
            f'--resume found no complete checkpoint in {work_dir}: {said}. Give another with --resume FILE, or begin '
            'anew without --resume'
        )
    log(f'mmkerv: --resume found no checkpoint in {work_dir}: training begins from the start')
    return None


def output_folders(cfg: Config) -> set[Path]:
    """Return the local folders that a run writes into: ``work_dir``, and where its checkpoints go.

    Example:
        >>> folders = output_folders(Config(dict(work_dir='a', default_hooks=dict(checkpoint=dict(out_dir='b')))))
        >>> sorted(str(folder.relative_to(Path.cwd())) for folder in folders)
        ['a', 'b/a']
    """
    folders = {Path(cfg.work_dir).resolve()}
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('out_dir') and '://' not in str(hook['out_dir']):
        folders.add(Path(hook['out_dir'], Path(cfg.work_dir).name).resolve())
    return folders


def remove_half_written(folder: Path) -> list[Path]:
    """Remove temporary files of :func:`~mmkerv.engine.atomic_path` whose process is gone, and return their names.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()); (folder / '.epoch_1.pth.4194399.tmp').touch()
        >>> [file.name for file in remove_half_written(folder)]
        ['.epoch_1.pth.4194399.tmp']
    """
    removed = []
    for file in folder.glob('.*.tmp'):
        process = re.fullmatch(r'\..+\.(\d+)\.tmp', file.name)
        if process and (int(process[1]) == os.getpid() or not _is_alive(int(process[1]))):
            file.unlink(missing_ok=True)
            removed.append(file)
    return removed


def _written(cfg: Config) -> list[Path]:
    """The checkpoints of the run's folders, newest first, without the best ones, which cannot be resumed."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    templates = [hook.get('filename_tmpl') or 'epoch_{}.pth', 'iter_{}.pth']
    names = re.compile('|'.join([re.escape(t).replace(r'\{\}', r'\d+') for t in templates] + [re.escape(NAME)]))
    found = []
    for folder in filter(Path.is_dir, output_folders(cfg)):
        if _is_first():
            for file in remove_half_written(folder):
                log(f'mmkerv: removed {file}, which an interrupted run has left half written')
        found += [file for file in folder.iterdir() if names.fullmatch(file.name)]
    return sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)


def _inspect(file: Path, trust: bool) -> tuple[Position, str | None]:
    """Return the position of a checkpoint, and what is wrong with it."""
    nowhere = Position(0, '')
    if not file.is_file():
        return nowhere, 'does not exist'
    try:
        checkpoint: Any = safe_load(file, trust=trust)
    except (UnsafeCheckpointError, OSError) as error:
        return nowhere, f'cannot be read ({str(error).partition(". ")[0]})'
    if not isinstance(checkpoint, dict):
        return nowhere, 'holds no checkpoint'
    if missing := [key for key in NEEDED if not isinstance(checkpoint.get(key), dict)]:
        return nowhere, f'has no {", no ".join(missing)}'
    meta = checkpoint['meta']
    if wrong := [key for key in ('epoch', 'iter') if type(meta.get(key)) is not int]:
        return nowhere, f'does not say of which {" and ".join(wrong)} it is'
    if name := first_nan(checkpoint['state_dict']):
        return nowhere, f'holds NaN in {printable(name)}'
    time = meta.get('time')
    return Position(meta['iter'], time if isinstance(time, str) and TIME.fullmatch(time) else ''), None


def _named(marker: Path, file: Path) -> str:
    # Where training is complete already it writes no name any more.
    if _is_first():
        with atomic_path(marker) as temporary:
            temporary.write_text(str(file))
    return str(file)


def _is_first() -> bool:
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
