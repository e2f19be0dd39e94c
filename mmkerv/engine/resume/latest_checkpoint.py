"""Search for the checkpoint that ``--resume`` starts from: the last complete one, whatever interrupted the run."""

import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.engine.checkpoint.finite import first_nan
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.resume.stop_signal_hook import INTERRUPTED_CHECKPOINT
from mmkerv.errors import ConfigError, UnsafeCheckpointError
from mmkerv.utils import log, printable
from mmkerv.work_folder import LAST_CHECKPOINT, named_checkpoint

REQUIRED_KEYS = ('meta', 'state_dict', 'message_hub')
# Form of the time in a checkpoint of mmengine.
TIMESTAMP = re.compile(r'\d{8}_\d{6}')


class Position(NamedTuple):
    """Position of a checkpoint in a run: iteration and time, ``''`` if the checkpoint has no time."""

    iteration: int
    time: str


def latest_checkpoint(cfg: Config, trust: bool = False) -> str | None:
    """Return the last complete checkpoint of ``cfg.work_dir``, and remove the partial files of killed runs.

    This is the checkpoint that the file ``last_checkpoint`` names, or a complete one that is newer and of a later
    iteration: a run can be killed after it has written a checkpoint and before it has written the name. If the named
    one is missing or damaged, it is the newest complete one, and a warning names both. Its path is then written to
    ``last_checkpoint``.

    Args:
        cfg: config with ``work_dir``; ``default_hooks.checkpoint`` has the folder and names of checkpoints.
        trust: see :func:`~mmkerv.engine.safe_load`.

    Returns:
        The path, or ``None`` if the run has not written any checkpoint.

    Raises:
        ConfigError: if there are checkpoints and none is complete, with the reason for each of the last three.

    Example:
        >>> import tempfile
        >>> latest_checkpoint(Config(dict(work_dir=tempfile.mkdtemp()))) is None
        True
    """
    work_dir = Path(cfg.work_dir)
    marker = work_dir / LAST_CHECKPOINT
    named = marker.read_text(errors='replace').strip() if marker.is_file() else ''
    if '://' in named:
        return named
    files = _checkpoint_files(cfg)
    damaged: dict[str, str] = {}
    if named:
        # A work_dir that was moved or copied has its own copy, which comes first.
        last = named_checkpoint(work_dir) or Path(named)
        position, problem = _inspect(last, trust)
        if problem is None:
            later = _later_checkpoint(files, last, position, marker.stat().st_mtime_ns, trust)
            if later is None:
                return str(last)
            log(f'mmkerv: {later} is complete and later than {last}, which {LAST_CHECKPOINT} names: resuming from it')
            return _write_marker(marker, later)
        damaged[str(last)] = problem
    for file in files:
        if str(file) in damaged or str(file.resolve()) in damaged:
            continue
        problem = _inspect(file, trust)[1]
        if problem is None:
            reasons = '; '.join(f'{name} {why}' for name, why in damaged.items()) or f'{LAST_CHECKPOINT} names none'
            log(f'mmkerv: resuming from {file}, the newest complete checkpoint: {reasons}', logging.WARNING)
            return _write_marker(marker, file)
        damaged[str(file)] = problem
    if damaged:
        reasons = '; '.join(f'{name} {why}' for name, why in list(damaged.items())[:3])
        raise ConfigError(
            f'--resume found no complete checkpoint in {work_dir}: {reasons}. Give another with --resume FILE, or '
            'start again without --resume'
        )
    log(f'mmkerv: --resume found no checkpoint in {work_dir}: training begins from the start')
    return None


def output_folders(cfg: Config) -> set[Path]:
    """Return the local folders that a run writes into: ``work_dir`` and the folder of its checkpoints.

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


def remove_partial_files(folder: Path) -> list[Path]:
    """Remove temporary files of :func:`~mmkerv.engine.atomic_path` whose process has ended, and return them.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()); (folder / '.epoch_1.pth.4194399.tmp').touch()
        >>> [file.name for file in remove_partial_files(folder)]
        ['.epoch_1.pth.4194399.tmp']
    """
    removed = []
    for file in folder.glob('.*.tmp'):
        process = re.fullmatch(r'\..+\.(\d+)\.tmp', file.name)
        if process and (int(process[1]) == os.getpid() or not _is_alive(int(process[1]))):
            file.unlink(missing_ok=True)
            removed.append(file)
    return removed


def _checkpoint_files(cfg: Config) -> list[Path]:
    """Return the checkpoints in the run's folders, newest first, without the best ones, which cannot be resumed."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    templates = [hook.get('filename_tmpl') or 'epoch_{}.pth', 'iter_{}.pth']
    patterns = [re.escape(template).replace(r'\{\}', r'\d+') for template in templates]
    names = re.compile('|'.join([*patterns, re.escape(INTERRUPTED_CHECKPOINT)]))
    files = []
    for folder in filter(Path.is_dir, output_folders(cfg)):
        if _is_main_process():
            for file in remove_partial_files(folder):
                log(f'mmkerv: removed {file}, a partial file of an interrupted run')
        files += [file for file in folder.iterdir() if names.fullmatch(file.name)]
    return sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)


def _later_checkpoint(files: list[Path], last: Path, position: Position, since: int, trust: bool) -> Path | None:
    """Return the newest complete checkpoint that is newer than ``since`` (ns) and of a later iteration."""
    for file in files:
        if file.stat().st_mtime_ns <= since or file.resolve() == last.resolve():
            continue
        later, problem = _inspect(file, trust)
        # The time in the checkpoint, because files that were copied without their times may be of an earlier run.
        if problem is None and later.iteration > position.iteration and later.time >= position.time:
            return file
    return None


def _inspect(file: Path, trust: bool) -> tuple[Position, str | None]:
    """Return the position of a checkpoint, and what is wrong with it as the end of a sentence."""
    nowhere = Position(0, '')
    if not file.is_file():
        return nowhere, 'does not exist'
    try:
        checkpoint: Any = safe_load(file, trust=trust)
    except (UnsafeCheckpointError, OSError) as error:
        return nowhere, f'cannot be read ({str(error).partition(". ")[0]})'
    if not isinstance(checkpoint, dict):
        return nowhere, 'holds no checkpoint'
    if missing := [key for key in REQUIRED_KEYS if not isinstance(checkpoint.get(key), dict)]:
        return nowhere, f'has no {", no ".join(missing)}'
    meta = checkpoint['meta']
    if wrong := [key for key in ('epoch', 'iter') if type(meta.get(key)) is not int]:
        return nowhere, f'has no valid meta.{" and meta.".join(wrong)}'
    if name := first_nan(checkpoint['state_dict']):
        return nowhere, f'holds NaN in {printable(name)}'
    time = meta.get('time')
    return Position(meta['iter'], time if isinstance(time, str) and TIMESTAMP.fullmatch(time) else ''), None


def _write_marker(marker: Path, file: Path) -> str:
    # Here, because a run whose training is complete writes no checkpoint and therefore no marker.
    if _is_main_process():
        with atomic_path(marker) as temporary:
            temporary.write_text(str(file))
    return str(file)


def _is_main_process() -> bool:
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
