"""``record.json``: the result of one run, written when the run has ended."""

import json
import math
import re
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from mmkerv.analysis.comparison.variant import Variant
from mmkerv.analysis.logs import Log, log_files, loss_keys, read_run
from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ConfigError
from mmkerv.utils import printable
from mmkerv.work_folder import named_checkpoint

RECORD_FILE, LOG_FILE, STARTS_FILE = 'record.json', 'log.txt', 'starts.json'
DONE, FAILED = 'done', 'failed'
# Metrics that stand for an evaluation, the most usual first; where none is there, the first that is logged does.
MAIN_METRICS = ('coco/bbox_mAP', 'coco/segm_mAP', 'pascal_voc/mAP', 'dota/mAP', 'mIoU', 'accuracy/top1')
# Of a log that is read for an error or for the progress, in bytes.
TAIL = 20_000
KIBI = 1024


class Run(NamedTuple):
    """One training: a variant under a seed.

    Args:
        variant: what is trained.
        seed: seed of the training.
        folder: its work folder.

    Example:
        >>> Run(Variant('plain'), 0, Path('work_dirs/a/plain/seed_0')).name
        'plain, seed 0'
    """

    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Name in messages."""
        return f'{self.variant.spec}, seed {self.seed}'

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint after the last iteration, or ``None``."""
        return named_checkpoint(self.folder)

    def record(self) -> dict[str, Any] | None:
        """Return the record, or ``None`` if the run has not ended.

        Raises:
            ConfigError: if the file cannot be read.
        """
        file = self.folder / RECORD_FILE
        if not file.is_file():
            return None
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise ConfigError(f'{file} cannot be read: {error}; remove it, and the run is evaluated again') from error

    def write(self, **values: Any) -> dict[str, Any]:
        """Write the record atomically and return it."""
        date = datetime.now(timezone.utc).isoformat(timespec='seconds')
        record = {'operator': self.variant.spec, 'seed': self.seed, 'date': date, **values}
        write_json(self.folder / RECORD_FILE, record)
        return record


def write_json(file: Path, content: Any) -> None:
    r"""Write a JSON file atomically.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), 'a.json'); write_json(file, {'a': 1}); file.read_text()
        '{\n "a": 1\n}\n'
    """
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + '\n')


def begin_start(run: Run) -> None:
    """Note in ``starts.json`` that a start of a run begins: one that is killed with the comparison leaves only this.

    Example:
        >>> import tempfile
        >>> run = Run(Variant('plain'), 0, Path(tempfile.mkdtemp()))
        >>> begin_start(run); end_start(run, 60.0, 2_000); begin_start(run); read_starts(run)
        [{'seconds': 60.0, 'kilobytes': 2000}, {'seconds': None, 'kilobytes': None}]
    """
    write_json(run.folder / STARTS_FILE, [*read_starts(run), {'seconds': None, 'kilobytes': None}])


def end_start(run: Run, seconds: float, kilobytes: int) -> None:
    """Note the wall time of the last start, and the largest resident memory of its process.

    Example:
        >>> end_start(run, 60.0, 2_000_000)  # doctest: +SKIP
    """
    write_json(run.folder / STARTS_FILE, [*read_starts(run)[:-1], {'seconds': seconds, 'kilobytes': kilobytes}])


def read_starts(run: Run) -> list[dict[str, Any]]:
    """Return wall time and memory of each start, ``None`` where they are not known.

    Example:
        >>> read_starts(Run(Variant('plain'), 0, Path('absent')))
        []
    """
    file = run.folder / STARTS_FILE
    try:
        return json.loads(file.read_text()) if file.is_file() else []
    except ValueError:
        # A damaged file tells as little as none: the run counts as incomplete if it was resumed.
        return []


def finished(run: Run, jobs: int = 1) -> dict[str, Any]:
    """Write the record of a training that has ended well, from its log and its ``starts.json``.

    ``seconds`` is the wall time of all starts, and ``None`` with ``complete`` false if one of them was killed together
    with the comparison, or is of a version that kept only the time of the last.

    Args:
        run: the run.
        jobs: number of trainings at a time, which share what a step takes.

    Example:
        >>> finished(run)['status']  # doctest: +SKIP
        'done'
    """
    log, starts = read_run(run.folder), read_starts(run)
    times = [line['time'] for line in log.train if 'time' in line]
    gpu = [line['memory'] for line in log.train if 'memory' in line]
    logged = sum(file.stat().st_size > 0 for file in log_files(run.folder))
    known = [start for start in starts if start['seconds'] is not None]
    complete = len(known) == len(starts) >= logged
    kilobytes = max((start['kilobytes'] for start in known), default=0)
    return run.write(
        status=DONE,
        metrics=metrics(log),
        seconds_per_step=median(times) if times else None,
        memory_mib=max(gpu) if gpu else round(kilobytes / KIBI),
        memory_of='GPU' if gpu else 'process',
        seconds=round(sum(start['seconds'] for start in known), 1) if complete else None,
        complete=complete,
        jobs=jobs,
        starts=logged,
    )


def is_complete(record: dict[str, Any]) -> bool:
    """Return whether the time of a record is that of all its starts; earlier versions kept that of the last.

    Example:
        >>> is_complete({'starts': 2, 'complete': True}), is_complete({'starts': 1}), is_complete({'starts': 2})
        (True, True, False)
    """
    return record.get('complete', record.get('starts', 1) <= 1)


def metrics(log: Log) -> dict[str, float]:
    """Return the metrics of the last evaluation; those that are not finite are left out.

    Example:
        >>> metrics(Log(Path('a'), [], [{'mIoU': 30.0, 'step': 1}, {'mIoU': 40.0, 'time': 0.1, 'step': 2}]))
        {'mIoU': 40.0}
    """
    last = log.evaluation[-1] if log.evaluation else {}
    skipped = ('step', 'epoch', 'iter', 'time', 'data_time')
    found = {key: value for key, value in last.items() if key not in skipped}
    return {key: value for key, value in found.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def main_metric(found: list[dict[str, float]], asked: str | None = None) -> str | None:
    """Return the name of the metric that a table shows.

    Args:
        found: metrics of the runs.
        asked: full name, or the part after the last ``'/'``; ``None`` chooses the usual one.

    Raises:
        ConfigError: if no run has the metric, listing those there are.

    Example:
        >>> main_metric([{'aAcc': 90.0, 'mIoU': 40.0}]), main_metric([{'coco/bbox_mAP_50': 0.1}], 'bbox_mAP_50')
        ('mIoU', 'coco/bbox_mAP_50')
    """
    names = list(dict.fromkeys(name for each in found for name in each))
    if asked is None:
        return next((name for name in MAIN_METRICS if name in names), names[0] if names else None)
    matches = [name for name in names if asked in (name, name.rpartition('/')[2])]
    if not matches:
        if not names:
            return asked
        raise ConfigError(f'--metric {asked!r}: the evaluations have {", ".join(names)}; choose one of these')
    return matches[0]


def usual_keys(log: Log) -> list[str]:
    """Return the keys of a run that tell how it went: the usual metric of its task, and the losses.

    Raises:
        ConfigError: if the log has neither.

    Example:
        >>> usual_keys(Log(Path('a'), [{'loss': 2.0, 'step': 1}], [{'aAcc': 90.0, 'mIoU': 40.0, 'step': 1}]))
        ['mIoU', 'loss']
    """
    last = metrics(log)
    keys = [*([main_metric([last])] if last else []), *loss_keys(log)]
    if not keys:
        raise ConfigError(
            f'{str(log.file)!r} has neither a metric nor a loss; it has {", ".join(log.keys)}: give --keys'
        )
    return keys


def tail(file: Path) -> str:
    """Return the end of a text file, or nothing if there is none.

    Example:
        >>> tail(Path('absent.txt'))
        ''
    """
    if not file.is_file():
        return ''
    with file.open('rb') as stream:
        stream.seek(max(0, file.stat().st_size - TAIL))
        return stream.read().decode(errors='replace')


def last_error(text: str) -> str:
    r"""Return the message by which a training ended, from the end of what it has printed.

    Of several processes, the lines begin with the number of theirs, and their launcher adds an error that says only
    that one of them failed.

    Example:
        >>> last_error('loss: 1\nerror: the loss is NaN; lower the learning rate')
        'the loss is NaN; lower the learning rate'
        >>> last_error('Traceback ...\nRuntimeError: no memory\n')
        'RuntimeError: no memory'
        >>> last_error('[rank1]: ValueError: a\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n')
        'ValueError: a'
    """
    lines = [re.sub(r'^\[rank\d+\]: ?', '', line.strip()).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    ours = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
    raised = [line for line in lines if re.match(r'[\w.]*(Error|Exception|Interrupt|Exit)\b', line)]
    raised = [line for line in raised if not re.match(r'[\w.]*ChildFailedError\b', line)]
    return printable((ours or raised or lines or ['it printed nothing'])[-1], 500)


def fraction_done(text: str, first: bool = False) -> float:
    r"""Return the part of a training that is done, from the end of what it has printed, or from the first line on it.

    Example:
        >>> fraction_done('Epoch(train)  [2][10/20]  lr: 1\n'), fraction_done('Iter(train) [ 30/120]  lr: 1\n')
        (1.5, 0.25)
        >>> fraction_done('Iter(train) [ 30/120]  lr: 1\nIter(train) [ 60/120]  lr: 1\n', first=True)
        0.25
    """
    epochs = re.findall(r'Epoch\(train\)\s+\[\s*(\d+)\]\[\s*(\d+)/(\d+)\]', text)
    if epochs:
        epoch, done, all_of_it = map(int, epochs[0 if first else -1])
        return epoch - 1 + done / all_of_it
    iterations = re.findall(r'Iter\(train\)\s+\[\s*(\d+)/(\d+)\]', text)
    if not iterations:
        return 0.0
    done, all_of_it = map(int, iterations[0 if first else -1])
    return done / all_of_it
