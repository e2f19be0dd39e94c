"""Training runs of tools/train.py that are repeatedly killed with SIGKILL and resumed, and the phase of each kill."""

import contextlib
import importlib
import itertools
import os
import random
import runpy
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmkerv.engine import safe_load
from mmkerv.engine.resume.latest_checkpoint import latest_checkpoint
from tests.engine.registered_parts import CONFIG, PHASE, PHASES
from tests.engine.resume.interrupted_runs import bits, differing

ROOT = Path(__file__).resolve().parents[3]
# Longest wait of a kill in seconds after its phase has begun, by phase.
LONGEST_WAIT = (0.3, 0.003, 0.006, 0.02, 0.01)


def prepare() -> None:
    """Make writing a phase, and import once what every child needs."""
    write = CheckpointHook._save_checkpoint_with_step

    def watched(*args: Any, **kwargs: Any) -> None:
        before = PHASE.enter(3)
        write(*args, **kwargs)
        PHASE.shared[0] = before

    CheckpointHook._save_checkpoint_with_step = watched
    sys.modules['mmengine.runner.runner'].collect_env = dict
    for module in ('mmcv', 'torch._dynamo', 'torch.utils.tensorboard', 'mmkerv.engine.config.prepare', 'mmkerv.ops'):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def train(config: Path, folder: Path) -> int:
    """Start ``tools/train.py CONFIG --work-dir FOLDER --resume`` in a new process and return its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        log = os.open(folder.parent / f'{folder.name}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, 'w', buffering=1) for n in (1, 2))
        sys.argv = [str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(folder), '--resume']
        runpy.run_path(sys.argv[0], run_name='__main__')
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
        if isinstance(stop.code, str):
            os.write(2, f'{stop.code}\n'.encode())
    except Exception:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def finish(child: int) -> None:
    """Wait for a process and raise if it fails."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise RuntimeError(f'training ended with status {code}')


def kill_in(child: int, phase: int, entry: int, generator: random.Random) -> int | None:
    """Kill a process in a phase; return the phase in which it died, ``None`` if it had ended before."""
    while (PHASE.shared[1 + phase] < entry and phase) or (not phase and not PHASE.shared[1 + 2] and entry > 1):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f'training ended with status {status}')
            return None
        time.sleep(0.0002)
    time.sleep(generator.uniform(0, LONGEST_WAIT[phase]))
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f'training ended with status {status}')
    return PHASE.shared[0] if status else None


def last_complete(folder: Path) -> int:
    """Return the iteration of the last readable checkpoint, 0 if there is none."""
    iterations = [0]
    for file in folder.glob('*.pth'):
        if not file.name.startswith('best'):
            with contextlib.suppress(Exception):
                iterations.append(safe_load(file)['meta']['iter'])
    return max(iterations)


def killed_runs(
    folder: Path, kills: int, by_epoch: bool, workers: int, seed: int, say: Callable[[str], None] = print
) -> tuple[Counter, list[str]]:
    """Kill runs until there are ``kills`` kills; each run is completed after at most five of them.

    Returns:
        Number of kills by phase, and the failures.
    """
    generator = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / 'config.py'
    config.write_text(CONFIG.format(by_epoch=by_epoch, workers=workers))
    finish(train(config, folder / 'uninterrupted'))
    uninterrupted, counts, failures = bits(folder / 'uninterrupted'), Counter(), []
    for number in range(kills):
        run = folder / f'run{number}'
        for _ in range(5):
            PHASE.clear()
            child = train(config, run)
            # Loading and the forward pass occur in every iteration, the other phases in every third or fifth.
            phase = generator.choice((0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4))
            entry = generator.randint(1, 4 if phase in (0, 3, 4) else 12)
            died = kill_in(child, phase, entry, generator)
            if died is None:
                break
            counts[PHASES[died]] += 1
            latest = latest_checkpoint(Config({'work_dir': str(run)})) if run.is_dir() else None
            iteration = safe_load(latest)['meta']['iter'] if latest else 0
            if iteration != last_complete(run):
                failures.append(f'{run.name}: resumes at {iteration}, last complete is {last_complete(run)}')
            say(f'{run.name}: killed in {PHASES[died]}, resumes at iteration {iteration}')
            if sum(counts.values()) >= kills:
                break
        finish(train(config, run))
        if names := differing(bits(run), uninterrupted):
            failures.append(f'{run.name}: {len(names)} values differ, such as {names[0]}')
        left = [file.name for file in run.glob('.*.tmp')]
        failures += [f'{run.name}: {name} is left' for name in left]
        if sum(counts.values()) >= kills:
            break
    return counts, failures


def main() -> None:
    """Print the result of :func:`killed_runs`: ``python tests/engine/resume/killed_runs.py FOLDER KILLS``."""
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    prepare()
    total, failed = Counter(), []
    for seed, (by_epoch, workers) in enumerate(itertools.product((True, False), (0, 2))):
        name = f'{"epochs" if by_epoch else "iterations"}, {workers} workers'
        counts, failures = killed_runs(
            folder / name.replace(', ', '-').replace(' ', '-'), kills, by_epoch, workers, seed
        )
        print(f'{name}: {sum(counts.values())} kills {dict(counts)}, {len(failures)} failures {failures}', flush=True)
        total += counts
        failed += failures
    print(f'all: {sum(total.values())} kills {dict(total)}, {len(failed)} failures')


if __name__ == '__main__':
    main()
