"""Curves and times of training runs from what mmengine logs: vis_data/*.json, one JSON object a line."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

from mmkerv.errors import ConfigError

# Where a value stands, not what it is.
PLACE = ('epoch', 'iter', 'step')
# Also logged in evaluation.
TIMES = ('time', 'data_time')


class Curve(NamedTuple):
    """Values of one key.

    Args:
        unit: what ``x`` counts, ``'iteration'`` or ``'epoch'``.
        x: where they were logged, increasing.
        y: the values.

    Example:
        >>> Curve('epoch', [1, 2], [0.1, 0.2]).y[-1]
        0.2
    """

    unit: str
    x: list[float]
    y: list[float]


class Log(NamedTuple):
    """What one run logged.

    Args:
        file: where it was read.
        train: the lines of training, in order.
        evaluation: the lines of evaluation, in order.

    Example:
        >>> Log(Path('a.json'), [{'loss': 1.0, 'step': 1}], []).keys
        ['loss']
    """

    file: Path
    train: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]

    @property
    def keys(self) -> list[str]:
        """Names of what was logged: of the evaluation first, then of the training."""
        found = [key for line in self.evaluation for key in line if key not in TIMES]
        found += [key for line in self.train for key in line]
        return [key for key in dict.fromkeys(found) if key not in PLACE]

    @property
    def by_epoch(self) -> bool:
        """Whether the run counted epochs."""
        return any('epoch' in line for line in self.train)

    def curve(self, key: str) -> Curve:
        """Return the values of a key; of a step that was logged twice, as after a resumption, the later one.

        Args:
            key: as it was logged, or what follows its last ``'/'`` if that is not ambiguous, such as ``'bbox_mAP'``.

        Raises:
            ConfigError: for a key that was not logged, with those that were.

        Example:
            >>> Log(Path('a.json'), [], [{'coco/bbox_mAP': 0.3, 'step': 2}]).curve('bbox_mAP').x
            [2]
        """
        known = self.keys
        name = key if key in known else None
        if name is None:
            ends = [own for own in known if own.rpartition('/')[2] == key]
            if len(ends) != 1:
                found = 'several keys that end in' if ends else 'no key'
                raise ConfigError(f'--keys: {str(self.file)!r} has {found} {key!r}; it has {", ".join(ends or known)}')
            name = ends[0]
        lines = [line for line in self.train if name in line]
        unit = 'iteration'
        if not lines:
            lines = [line for line in self.evaluation if name in line]
            unit = 'epoch' if self.by_epoch else 'iteration'
        points = {line['step']: line[name] for line in lines if isinstance(line[name], (int, float))}
        if not points:
            raise ConfigError(f'--keys: {key!r} of {str(self.file)!r} holds no numbers; choose another key')
        return Curve(unit, sorted(points), [points[step] for step in sorted(points)])


def read_log(path: str | Path) -> Log:
    """Read one run's log.

    Args:
        path: a ``.json`` file that mmengine wrote, or a folder (a work folder, or one of its runs), whose latest log is
            read. A last line that a killed run left unfinished is left out.

    Raises:
        FileNotFoundError: if there is none.
        ConfigError: if it is not such a log.

    Example:
        >>> read_log('work_dirs/demo/train').keys  # doctest: +SKIP
        ['coco/bbox_mAP', ..., 'lr', 'loss']
    """
    file = Path(path)
    if file.is_dir():
        found = sorted(file.glob('**/vis_data/scalars.json'))
        if not found:
            raise FileNotFoundError(f'{str(path)!r} holds no vis_data/scalars.json; give the log of a run')
        file = found[-1]
    if not file.is_file():
        raise FileNotFoundError(f'log {str(path)!r} does not exist; give a vis_data/*.json or a work folder')
    lines, text = [], file.read_text(errors='replace').splitlines()
    for number, line in enumerate(text, 1):
        try:
            entry = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            if number == len(text) and lines:
                break
            raise ConfigError(_no_log(path, f'line {number} is not JSON ({error.msg})')) from error
        if not isinstance(entry, dict):
            raise ConfigError(_no_log(path, f'line {number} holds a {type(entry).__name__}'))
        # mmengine's older text logs begin with a line of the environment, which has no step.
        if 'step' in entry:
            lines.append(entry)
    if not lines:
        raise ConfigError(_no_log(path, 'no line has a step'))
    train = [line for line in lines if 'lr' in line or 'iter' in line or 'loss' in line]
    return Log(file, train, [line for line in lines if line not in train])


def _no_log(path: Any, reason: str) -> str:
    return f'{str(path)!r} is no log of mmengine: {reason}; give a vis_data/*.json'


def run_names(paths: Sequence[str | Path]) -> list[str]:
    """Return short names that tell runs apart: the parts of their paths that differ, dates last.

    Example:
        >>> run_names(['w/plain/20240101_101500/vis_data/scalars.json', 'w/coc/20250101_101500/vis_data/scalars.json'])
        ['plain', 'coc']
    """
    parts = [[part for part in Path(path).parts if part not in ('vis_data', 'scalars.json', '/')] for path in paths]
    if len(parts) < 2:
        return [Path(path).name for path in paths]
    undated = [[part for part in p if not re.fullmatch(r'\d{8}_\d{6}(\.json)?', part)] for p in parts]
    if all(undated) and len(set(map(tuple, undated))) == len(parts):
        parts = undated
    while min(map(len, parts)) > 1 and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while min(map(len, parts)) > 1 and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    return ['/'.join(p) for p in parts]


class TrainTime(NamedTuple):
    """How long iterations took, in seconds.

    Args:
        iteration: mean over all.
        epochs: mean of each epoch, by its number; empty if the run did not count epochs.

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
    """Average the times of a run's iterations.

    Args:
        log: of the run.
        include_outliers: count the first value of each epoch too, in which workers start and kernels are tuned. An
            epoch of one value keeps it.

    Raises:
        ConfigError: if no time was logged.

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
