"""Curves and times of training runs, from the logs of mmengine: vis_data/*.json, one JSON object per line."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from mmkerv.errors import ConfigError

# Keys that tell when a line was logged; all others are values.
POSITION = ('epoch', 'iter', 'step')
# Values of the training that evaluation logs too, with another meaning.
TIMES = ('time', 'data_time')


class Curve(NamedTuple):
    """Values of one key.

    Args:
        unit: unit of ``x``, ``'iteration'`` or ``'epoch'``.
        x: positions in the run, increasing.
        y: the values.

    Example:
        >>> Curve('epoch', [1, 2], [0.1, 0.2]).y[-1]
        0.2
    """

    unit: str
    x: list[float]
    y: list[float]


class Log(NamedTuple):
    """Log of one run.

    Args:
        file: file of the log.
        train: lines of training, in order.
        evaluation: lines of evaluation, in order.

    Example:
        >>> Log(Path('a.json'), [{'loss': 1.0, 'step': 1}], []).keys
        ['loss']
    """

    file: Path
    train: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]

    @property
    def keys(self) -> list[str]:
        """Names of the logged values, those of the evaluation first."""
        names = [key for line in self.evaluation for key in line if key not in TIMES]
        names += [key for line in self.train for key in line]
        return [key for key in dict.fromkeys(names) if key not in POSITION]

    @property
    def folder(self) -> Path:
        """Work folder of the run: the one above ``DATE/vis_data``, else that of the file.

        Example:
            >>> Log(Path('work_dirs/a/20250101_000000/vis_data/scalars.json'), [], []).folder.as_posix()
            'work_dirs/a'
        """
        if self.file.parent.name != 'vis_data':
            return self.file.parent
        # Relative to a folder inside the run, the file has fewer parents.
        return (self.file if len(self.file.parents) > 2 else self.file.resolve()).parents[2]

    @property
    def by_epoch(self) -> bool:
        """Return ``True`` if the run counted epochs."""
        return any('epoch' in line for line in self.train)

    def curve(self, key: str) -> Curve:
        """Return the values of a key. If a step was logged twice, as after resuming, the later value counts.

        Args:
            key: the logged key, or its part after the last ``'/'`` if that is unambiguous, such as ``'bbox_mAP'``.

        Raises:
            ConfigError: if the key was not logged; the message lists the logged keys.

        Example:
            >>> Log(Path('a.json'), [], [{'coco/bbox_mAP': 0.3, 'step': 2}]).curve('bbox_mAP').x
            [2]
        """
        known = self.keys
        name = key if key in known else None
        if name is None:
            matches = [full for full in known if full.rpartition('/')[2] == key]
            if len(matches) != 1:
                problem = 'several keys that end in' if matches else 'no key'
                choices = ', '.join(matches or known)
                raise ConfigError(f'--keys: {str(self.file)!r} has {problem} {key!r}; it has {choices}')
            name = matches[0]
        lines = [line for line in self.train if name in line]
        unit = 'iteration'
        if not lines:
            lines = [line for line in self.evaluation if name in line]
            unit = 'epoch' if self.by_epoch else 'iteration'
        points = {line['step']: line[name] for line in lines if isinstance(line[name], (int, float))}
        if not points:
            raise ConfigError(f'--keys: {key!r} of {str(self.file)!r} has no numbers; choose another key')
        return Curve(unit, sorted(points), [points[step] for step in sorted(points)])


def loss_keys(log: Log) -> list[str]:
    """Return the keys of the losses: ``loss``, ``loss_bbox``, ``decode.loss_ce`` and the like.

    Example:
        >>> loss_keys(Log(Path('a'), [{'lr': 0.1, 'loss': 2.0, 'decode.loss_ce': 2.0, 'step': 1}], []))
        ['loss', 'decode.loss_ce']
    """
    return [key for key in log.keys if key.rpartition('.')[2].startswith('loss')]


def read_log(path: str | Path) -> Log:
    """Read one run's log.

    Args:
        path: a ``.json`` log of mmengine; or a folder (a work folder, or one of its starts), which :func:`read_run`
            reads. A last line that a killed run left unfinished is ignored.

    Raises:
        FileNotFoundError: if there is no log.
        ConfigError: if the file is not a log of mmengine, or the folder holds several runs.

    Example:
        >>> read_log('work_dirs/demo/train').keys  # doctest: +SKIP
        ['coco/bbox_mAP', ..., 'lr', 'loss']
    """
    file = Path(path)
    if file.is_dir():
        runs = runs_below(file)
        if len(runs) > 1 and file not in runs:
            raise ConfigError(f'{file} is no run, it holds {len(runs)}: give the folder of one, such as {runs[0]}')
        return read_run(runs[0] if runs and file not in runs else file)
    if not file.is_file():
        raise FileNotFoundError(f'log {str(path)!r} does not exist; give a vis_data/*.json or a work folder')
    lines, text = [], file.read_text(errors='replace').splitlines()
    for number, line in enumerate(text, 1):
        try:
            entry = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            if number == len(text) and lines:
                break
            raise _not_a_log(path, f'line {number} is not JSON ({error.msg})') from error
        if not isinstance(entry, dict):
            raise _not_a_log(path, f'line {number} is a {type(entry).__name__}')
        # The older text logs of mmengine begin with a line about the environment, which has no step.
        if 'step' in entry:
            lines.append(entry)
    if not lines:
        raise _not_a_log(path, 'no line has a step')
    train, evaluation, last = [], [], 0
    by_epoch = any('epoch' in line for line in lines)
    for line in lines:
        if 'lr' in line or 'iter' in line or 'loss' in line:
            train.append(line)
            last = line['step']
        else:
            # LoggerHook.log_metric_by_epoch takes the number of the epoch, which is 0 in a loop of iterations.
            evaluation.append(line if by_epoch or line['step'] else {**line, 'step': last})
    return Log(file, train, evaluation)


def read_run(folder: str | Path) -> Log:
    """Read the log of a run that may have been resumed, which logs into another file after each start.

    The lines of an earlier start count up to where a later one begins. A run that started over replaces what was there.

    Args:
        folder: work folder of the run, or one of its starts. Other runs in folders of it do not count.

    Raises:
        FileNotFoundError: if there is no log.
        ConfigError: if no file is a log of mmengine.

    Example:
        >>> read_run('work_dirs/demo/train').train[-1]['step']  # doctest: +SKIP
        800
    """
    files = log_files(folder)
    if not files:
        raise FileNotFoundError(f'{str(folder)!r} contains no vis_data/scalars.json; give the log of a run')
    # A start that was interrupted before it logged anything leaves an empty file.
    files = [file for file in files if file.stat().st_size] or files[-1:]
    logs, problem = [], None
    for file in files:
        try:
            logs.append(read_log(file))
        except ConfigError as error:
            # A machine that failed leaves a damaged file, beside those of the other starts.
            problem = error
    if not logs:
        raise problem
    log = logs[0]
    for later in logs[1:]:
        train, evaluation = (_before(getattr(log, part), getattr(later, part)) for part in ('train', 'evaluation'))
        if later.train and not train:
            evaluation = []
        log = Log(later.file, [*train, *later.train], [*evaluation, *later.evaluation])
    return log


def log_files(folder: str | Path) -> list[Path]:
    """Return the logs of the starts of a run, by their dates.

    Args:
        folder: work folder of the run, or one of its starts.

    Example:
        >>> log_files('absent')
        []
    """
    own = Path(folder, 'vis_data', 'scalars.json')
    return [own] if own.is_file() else sorted(Path(folder).glob('*/vis_data/scalars.json'))


def runs_below(folder: str | Path) -> list[Path]:
    """Return the work folders of the runs in a folder, itself among them if it is one.

    Example:
        >>> runs_below('absent')
        []
    """
    # RUN/DATE/vis_data/scalars.json
    return sorted({file.parents[2] for file in Path(folder).glob('*/**/vis_data/scalars.json')})


def _before(lines: list[dict[str, Any]], later: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first = min((line['step'] for line in later), default=float('inf'))
    return [line for line in lines if line['step'] < first]


def _not_a_log(path: Any, reason: str) -> ConfigError:
    return ConfigError(f'{str(path)!r} is not a log of mmengine: {reason}; give a vis_data/*.json')


def run_names(paths: Sequence[str | Path]) -> list[str]:
    """Return short, distinct names of runs: the parts of their paths that differ, with dates only where needed.

    Example:
        >>> run_names(['w/plain/20240101_101500/vis_data/scalars.json', 'w/coc/20250101_101500/vis_data/scalars.json'])
        ['plain', 'coc']
    """
    if len(paths) < 2:
        return [Path(path).name for path in paths]
    parts = [[part for part in Path(path).parts if part not in ('vis_data', 'scalars.json', '/')] for path in paths]
    undated = [[part for part in p if not re.fullmatch(r'\d{8}_\d{6}(\.json)?', part)] for p in parts]
    if all(undated) and len(set(map(tuple, undated))) == len(parts):
        parts = undated
    while min(map(len, parts)) > 1 and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while min(map(len, parts)) > 1 and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    return ['/'.join(p) for p in parts]


class TrainTime(NamedTuple):
    """Mean duration of an iteration, in seconds.

    Args:
        iteration: mean over the run.
        epochs: mean over each epoch, by its number; empty if the run did not count epochs.

    Example:
        >>> print(TrainTime(1.5, {1: 2.0, 2: 1.0}))
        slowest epoch 1, average time is 2.0000 s/iter
        fastest epoch 2, average time is 1.0000 s/iter
        time std over epochs is 0.5000
        average iter time: 1.5000 s/iter
    """

    iteration: float
    epochs: dict[int, float]

    def __str__(self) -> str:
        lines = []
        if self.epochs:
            for word, choose in (('slowest', max), ('fastest', min)):
                epoch = choose(self.epochs, key=self.epochs.get)
                lines.append(f'{word} epoch {epoch}, average time is {self.epochs[epoch]:.4f} s/iter')
            lines.append(f'time std over epochs is {pstdev(self.epochs.values()):.4f}')
        return '\n'.join([*lines, f'average iter time: {self.iteration:.4f} s/iter'])


def train_time(log: Log, include_outliers: bool = False) -> TrainTime:
    """Return the mean duration of a run's iterations.

    Args:
        log: log of the run.
        include_outliers: include the first value of each epoch, during which workers start and kernels are tuned. It is
            always included if the epoch has no other value.

    Raises:
        ConfigError: if the log has no times.

    Example:
        >>> lines = [{'epoch': 1, 'time': t, 'step': s} for s, t in enumerate((9.0, 1.0, 2.0))]
        >>> train_time(Log(Path('a.json'), lines, [])).iteration
        1.5
    """
    epochs: dict[Any, list[float]] = {}
    for line in log.train:
        if 'time' in line:
            epochs.setdefault(line.get('epoch'), []).append(line['time'])
    if not epochs:
        raise ConfigError(f'{str(log.file)!r} has no time of an iteration; it has {", ".join(log.keys) or "nothing"}')
    kept = {epoch: times if include_outliers or len(times) == 1 else times[1:] for epoch, times in epochs.items()}
    means = {epoch: fmean(times) for epoch, times in kept.items() if epoch is not None}
    return TrainTime(fmean(time for times in kept.values() for time in times), means)
