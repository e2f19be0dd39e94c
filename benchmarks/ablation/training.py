"""Runs of the study: each trains in a process of tools/train.py and writes a record."""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from machine import Machine

from ablation.settings import ORTH_WEIGHT, SETTINGS, Data, Job, configure
from mmkerv.analysis.logs import Log, read_log
from mmkerv.errors import ArgumentError

ROOT = Path(__file__).resolve().parents[2]


def read_records(*files: Path) -> dict[str, dict[str, Any]]:
    """Read the records in the existing files, by name; later files take precedence.

    Raises:
        ValueError: if a file is damaged.
    """
    records = {}
    for file in files:
        try:
            records |= json.loads(file.read_text()) if file.exists() else {}
        except (ValueError, TypeError) as error:
            raise ArgumentError(f'{file} is not a file of records ({error}); move it away') from error
    return records


def write_records(file: Path, records: dict[str, dict[str, Any]]) -> None:
    """Write records atomically, one per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ',\n'.join(f'{json.dumps(name)}: {json.dumps(records[name])}' for name in sorted(records))
    partial = file.with_suffix(f'.{os.getpid()}.part')
    partial.write_text(f'{{\n{lines}\n}}\n')
    partial.replace(file)


def complete(
    jobs: Iterable[Job],
    data: Data,
    out: Path,
    archive: Path,
    machine: Machine,
    workers: int,
    tell: Callable[[str], None] = print,
) -> None:
    """Do the runs without a record in ``out`` or ``archive``, ``workers`` at a time.

    Each record is written when its run has finished, so an interrupted study continues with the remaining runs.

    Raises:
        ValueError: at the end, if runs failed.
    """
    named = {job.name(data): job for job in jobs}
    recorded = read_records(archive, out)
    missing = {name: job for name, job in named.items() if name not in recorded}
    tell(f'{len(named) - len(missing)} of {len(named)} runs have records, {len(missing)} are missing')
    pool, failures = ThreadPoolExecutor(workers), []
    try:
        futures = {pool.submit(train, job, data, out.parent / name, machine): name for name, job in missing.items()}
        for count, future in enumerate(as_completed(futures), 1):
            name = futures[future]
            if error := future.exception():
                failures.append(f'{name}: {error}')
                tell(f'[{count}/{len(missing)}] failed: {failures[-1]}')
                continue
            record = future.result()
            write_records(out, read_records(out) | {name: record})
            tell(
                f'[{count}/{len(missing)}] {name}: val top-1 {record["last"]:.2f} (best {record["best"]:.2f}), '
                f'train {record["train_top1"]:.2f}, {record["seconds_per_iteration"]:.2f} s an iteration'
            )
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise ArgumentError(f'{len(failures)} of {len(missing)} runs failed: ' + '; '.join(failures))


def train(job: Job, data: Data, folder: Path, machine: Machine) -> dict[str, Any]:
    """Train one network and return its record.

    Args:
        job: the run.
        data: the images.
        folder: folder for config.py, train.log and mmengine's logs.
        machine: resources of the run.

    Raises:
        RuntimeError: if the process fails; the message is the last line of its output.
    """
    facts = machine.facts()
    folder.mkdir(parents=True, exist_ok=True)
    configure(job, data, machine.loaders).dump(folder / 'config.py')
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(folder / 'config.py'), '--work-dir', str(folder)]
    log = folder / 'train.log'
    with log.open('w') as stream:
        status = subprocess.run(command, env=machine.environment(), stdout=stream, stderr=stream).returncode
    if status:
        last = (log.read_text().strip().splitlines() or ['no output'])[-1]
        raise RuntimeError(f'{last} (exit status {status}, see {log})')
    record = {**job._asdict(), 'super_init': job.start, 'arguments': SETTINGS[job.setting]._asdict()}
    record |= {'orth_weight': ORTH_WEIGHT if SETTINGS[job.setting].orth else None, 'data': data.facts()}
    return record | figures(read_log(folder)) | facts


def figures(log: Log) -> dict[str, Any]:
    """Return the accuracies (%) and the time of a run from its log.

    ``curve`` is validation top-1 after each epoch, ``train_top1`` that of the augmented training images during the last
    epoch, and ``seconds_per_iteration`` the median over the epochs of their means, with data loading.
    """
    curve = log.curve('accuracy/top1').y
    epochs = {row['epoch']: row for row in log.train if 'accuracy_top-1' in row}
    last = epochs[max(epochs)]
    return {
        'curve': curve,
        'best': max(curve),
        'last': curve[-1],
        'train_top1': last['accuracy_top-1'],
        'diverged': not math.isfinite(last['loss']),
        'seconds_per_iteration': statistics.median(row['time'] for row in epochs.values()),
    }
