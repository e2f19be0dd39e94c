"""The trainings of a comparison as processes: so many at a time, each resumed where it stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import mmkerv
from mmkerv.analysis.comparison.record import (
    DONE,
    FAILED,
    LOG_FILE,
    RECORD_FILE,
    Run,
    begin_start,
    end_start,
    finished,
    fraction_done,
    is_complete,
    last_error,
    tail,
)
from mmkerv.errors import ConfigError, UserError
from mmkerv.utils import duration

LOCK_FILE = 'lock'
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds between two looks at the processes, and between two reports of a screen and of a file.
LOOK, REPORT, REPORT_IN_A_FILE = 0.2, 2.0, 60.0
STOPPING = b'\nstopping: the trainings write a checkpoint after their iteration; again stops them at once\n'
# Of the first process of a training, as in mmengine.
PORT = 29500
ROOT = Path(mmkerv.__file__).resolve().parents[1]


class Launch(NamedTuple):
    """How a training is started.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``, as of ``tools/train.py``.
        processes: processes of one training, one for each GPU.
        devices: numbers or names of the GPUs that the trainings share; none on a CPU.
        flags: further flags of ``tools/train.py``.

    Example:
        >>> Launch().command(Path('a.py'), Run(None, 0, Path('work')))[1:5]
        ['-m', 'mmkerv.cli.train', 'a.py', '--work-dir']
    """

    launcher: str = 'none'
    processes: int = 1
    devices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def command(self, config: Path, run: Run) -> list[str]:
        """Return the command line of a run; a run that was interrupted goes on."""
        python, module = [sys.executable], ['-m', 'mmkerv.cli.train']
        count = str(self.processes)
        start = {
            'none': [*python, *module],
            'pytorch': [*python, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', count, *module],
            'slurm': ['srun', '--ntasks', count, '--kill-on-bad-exit=1', *python, *module],
            'mpi': ['mpirun', '-n', count, *python, *module],
        }[self.launcher]
        launcher = [] if self.launcher == 'none' else ['--launcher', self.launcher]
        seed = ['--cfg-options', f'randomness.seed={run.seed}']
        return [*start, str(config), '--work-dir', str(run.folder), '--resume', *launcher, *self.flags, *seed]

    def environment(self, slot: int, jobs: int) -> dict[str, str]:
        """Return the environment of the training in one of the ``jobs`` places that work at a time."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
        environment = {**os.environ, 'PYTHONPATH': path}
        if self.devices:
            first = slot * self.processes
            own = [self.devices[i % len(self.devices)] for i in range(first, first + self.processes)]
            environment['CUDA_VISIBLE_DEVICES'] = ','.join(dict.fromkeys(own))
        elif jobs * self.processes > 1 and 'OMP_NUM_THREADS' not in environment:
            environment['OMP_NUM_THREADS'] = str(max(1, _cores() // (jobs * self.processes)))
        if self.launcher in ('slurm', 'mpi') and jobs > 1:
            # mmengine takes one port for all trainings of a machine; torch.distributed.run finds a free one.
            environment['MASTER_PORT'] = str(int(os.environ.get('MASTER_PORT', PORT)) + slot)
        return environment


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


@contextmanager
def locked(folder: Path) -> Iterator[IO]:
    """Hold a folder for one comparison; its trainings inherit the lock, so that none is started beside an orphan.

    Raises:
        ConfigError: if another comparison, or a training that one has started, still works in the folder.

    Example:
        >>> import tempfile
        >>> with locked(Path(tempfile.mkdtemp())) as lock:
        ...     lock.closed
        False
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open('a') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f'another comparison, or a training that it has started, still works in {folder}: wait for it, end it, '
                'or give another --work-dir'
            ) from error
        yield lock


class _Process(NamedTuple):
    run: Run
    slot: int
    process: subprocess.Popen
    start: float
    printed: int


class Progress(NamedTuple):
    """What is done, and when the rest will be.

    Args:
        done: runs that have ended well.
        failed: runs that have failed.
        runs: all runs.
        working: names of the runs at work, with the part that is done.
        seconds: seconds that the rest will take; ``None`` while nothing tells.

    Example:
        >>> str(Progress(1, 0, 4, {'coc, seed 0': 0.5}, 90.0)).partition(', ends')[0]
        '1 of 4 runs done; coc, seed 0: 50 %'
    """

    done: int
    failed: int
    runs: int
    working: dict[str, float]
    seconds: float | None

    def __str__(self) -> str:
        failed = f', {self.failed} failed' if self.failed else ''
        working = ''.join(f'; {name}: {part:.0%}'.replace('%', ' %') for name, part in self.working.items())
        end = ''
        if self.seconds is not None:
            clock = time.strftime('%a %H:%M', time.localtime(time.time() + self.seconds))
            end = f', ends about {clock}, in {duration(self.seconds)}'
        return f'{self.done} of {self.runs} runs done{failed}{working}{end}'


class Trainer:
    """The process pool: trains what has no record, as long as nobody stops it.

    Args:
        configs: config file of each variant, by its spec.
        launch: how trainings are started.
        jobs: number of trainings at a time.
        epochs: number of epochs of a training that counts epochs; 1 for any other.
        lock: file that the trainings keep open.
        tell: called with a line of text.
        recorded: called after each record.

    Example:
        >>> Trainer({'plain': Path('plain.py')}, Launch(), 1, 12, None, print).train([])
        0
    """

    def __init__(
        self,
        configs: dict[str, Path],
        launch: Launch,
        jobs: int,
        epochs: int,
        lock: IO | None,
        tell: Callable[[str], None],
        recorded: Callable[[], None] = lambda: None,
    ):
        self.configs, self.launch, self.jobs, self.epochs, self.lock = configs, launch, jobs, epochs, lock
        self.tell, self.recorded = tell, recorded
        self._working: list[_Process] = []
        self._seconds: dict[str, list[float]] = {}
        # Part of each resumed run that was done when its present start began.
        self._begun: dict[str, float] = {}
        self._signal = 0

    def train(self, runs: Sequence[Run]) -> int:
        """Train the runs without a record, one after the other in each of the ``jobs`` places.

        Returns:
            0, or the number of the signal that stopped it; then the trainings have written a checkpoint.
        """
        self._runs, waiting = runs, [run for run in runs if (run.record() or {}).get('status') != DONE]
        self._ended = {run.name: DONE for run in runs if run not in waiting}
        for run in runs:
            record = run.record()
            if record and record['status'] == DONE and tells_the_time(record):
                self._seconds.setdefault(run.variant.spec, []).append(record['seconds'])
        before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        reported = time.monotonic()
        try:
            while self._working or (waiting and not self._signal):
                while waiting and len(self._working) < self.jobs and not self._signal:
                    self._start(waiting.pop(0))
                time.sleep(LOOK)
                for process in list(self._working):
                    if (usage := _ended(process.process)) is not None:
                        self._working.remove(process)
                        self._record(process, usage)
                if time.monotonic() - reported > (REPORT if sys.stdout.isatty() else REPORT_IN_A_FILE):
                    reported = time.monotonic()
                    self._show(waiting)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            # After an error of our own; the trainings write a checkpoint.
            self._pass_on(signal.SIGTERM)
        return self._signal

    def _start(self, run: Run) -> None:
        slot = min(set(range(self.jobs)) - {process.slot for process in self._working})
        run.folder.mkdir(parents=True, exist_ok=True)
        # That of an earlier try, which says no more.
        (run.folder / RECORD_FILE).unlink(missing_ok=True)
        log = run.folder / LOG_FILE
        printed = log.stat().st_size if log.is_file() else 0
        with log.open('a') as out:
            begin_start(run)
            # A group of its own: what the terminal sends to this process is passed on once.
            process = subprocess.Popen(
                self.launch.command(self.configs[run.variant.spec], run),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.launch.environment(slot, self.jobs),
                start_new_session=True,
                pass_fds=(self.lock.fileno(),) if self.lock else (),
            )
        self._working.append(_Process(run, slot, process, time.monotonic(), printed))
        if self._signal:
            # It came while the process was started, and was passed on to the others only.
            _send(process, self._signal)

    def _record(self, ended: _Process, usage: Any) -> None:
        run, status, seconds = ended.run, ended.process.returncode, time.monotonic() - ended.start
        log = run.folder / LOG_FILE
        end_start(run, seconds, usage.ru_maxrss)
        if status and self._signal:
            self.tell(f'{run.name}: stopped; the same command goes on from its checkpoint')
            return
        error = None
        if status:
            error = f'ended by {signal.Signals(-status).name}' if status < 0 else last_error(_printed(log, ended))
        else:
            try:
                record = finished(run, self.jobs)
                if tells_the_time(record):
                    self._seconds.setdefault(run.variant.spec, []).append(record['seconds'])
            except (UserError, OSError) as problem:
                error = str(problem)
        if error:
            record = run.write(status=FAILED, error=error, log=str(log))
        self._ended[run.name] = record['status']
        shown = ', '.join(f'{key} {value:.4g}' for key, value in record.get('metrics', {}).items())
        self.tell(f'{run.name}: ' + (f'failed: {error}; see {log}' if error else shown or 'no metric'))
        self.recorded()

    def _show(self, waiting: Sequence[Run]) -> None:
        ended = list(self._ended.values())
        working = {process.run.name: self._part(process) for process in self._working}
        progress = Progress(ended.count(DONE), ended.count(FAILED), len(self._runs), working, self._rest(waiting))
        print(f'\r\033[K{progress}' if sys.stdout.isatty() else progress, end='' if sys.stdout.isatty() else '\n')
        sys.stdout.flush()

    def _part(self, process: _Process) -> float:
        return min(1.0, fraction_done(tail(process.run.folder / LOG_FILE)) / self.epochs)

    def _rest(self, waiting: Sequence[Run]) -> float | None:
        """Return the seconds that the rest takes, from what the runs so far have taken."""
        estimates = {}
        for process in self._working:
            known = self._seconds.get(process.run.variant.spec)
            estimates[process.run.name] = _mean(known) if known else self._whole(process)
        times = [second for seconds in self._seconds.values() for second in seconds]
        usual = _mean(times or [value for value in estimates.values() if value])
        if usual is None:
            return None
        rest = sum((estimates[process.run.name] or usual) * (1 - self._part(process)) for process in self._working)
        rest += sum(_mean(self._seconds.get(run.variant.spec)) or usual for run in waiting)
        return rest / self.jobs

    def _whole(self, process: _Process) -> float | None:
        """Return the seconds that the whole run takes at the pace of this start, or ``None`` if that is not known."""
        name, begun = process.run.name, 0.0
        if process.printed:
            # A resumed run: this start has done only what lies behind the first that it has printed.
            first = fraction_done(_printed(process.run.folder / LOG_FILE, process), first=True) / self.epochs
            begun = self._begun.setdefault(name, first) if first else self._begun.get(name)
        done = 0.0 if begun is None else self._part(process) - begun
        return (time.monotonic() - process.start) / done if done > 0.02 else None

    def _stop(self, number: int, frame: Any) -> None:
        if not self._signal:
            os.write(2, STOPPING)
        self._signal = self._signal or number
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for process in self._working:
            _send(process.process, number)


def tells_the_time(record: dict[str, Any]) -> bool:
    """Return whether a record tells how long a run takes.

    Example:
        >>> tells_the_time({'seconds': 60.0, 'starts': 1}), tells_the_time({'seconds': 2.0, 'starts': 2})
        (True, False)
    """
    return bool(record.get('seconds')) and is_complete(record)


def _send(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process that may have ended."""
    # Not by Popen.send_signal, which would reap an ended process, and with it what it has used. A signal that comes
    # while a process is reaped finds none.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _ended(process: subprocess.Popen) -> Any:
    """Return the resources that a process has used if it has ended, else ``None``, and set its exit status."""
    number, status, usage = os.wait4(process.pid, os.WNOHANG)
    if not number:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _printed(log: Path, process: _Process) -> str:
    """Return the end of what a process has printed, without what earlier starts have."""
    with log.open('rb') as stream:
        stream.seek(process.printed)
        return stream.read().decode(errors='replace')[-100_000:]
