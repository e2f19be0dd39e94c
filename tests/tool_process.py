"""Run a tool or a benchmark of the project as a user does, in a process that has already imported the large libraries.

Importing torch and three libraries takes longer than most tests of a tool. The processes are forked from a server that
has only imported them; tests of a tool's own imports start a new Python.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = (
    *('torch.utils.tensorboard', 'torch.distributed.run', 'torchvision', 'mmcv.ops', 'mmengine.runner', 'matplotlib'),
    *('mmdet.models', 'mmdet.datasets', 'mmdet.evaluation', 'mmdet.visualization', 'mmdet.utils'),
    *('mmseg.models', 'mmseg.datasets', 'mmseg.evaluation', 'mmseg.visualization', 'mmseg.utils'),
    *('mmpretrain.models', 'mmpretrain.datasets', 'mmpretrain.evaluation', 'mmpretrain.visualization'),
    *('mmkerv.engine.config.prepare', 'mmkerv.deploy.fold', 'mmkerv.models', 'mmkerv.datasets.shapes'),
)
SERVER = multiprocessing.get_context('forkserver')


class Done(NamedTuple):
    status: int
    out: str
    err: str


def run_tool(*command: object, cwd: Path = ROOT, timeout: float = 600, **environment: str) -> Done:
    """Run ``python COMMAND``, with one thread unless the environment sets another number; only our own are forked."""
    words, environment = [str(word) for word in command], {'OMP_NUM_THREADS': '1', **environment}
    if not words[0].startswith(('tools/', 'benchmarks/')):
        env = {**os.environ, **environment}
        done = subprocess.run(
            [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
        )
        return Done(done.returncode, done.stdout, done.stderr)
    SERVER.set_forkserver_preload(list(IMPORTED))
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ('out', 'err')]
        process = SERVER.Process(target=_run, args=(words, str(cwd), dict(os.environ) | environment, outputs))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f'{words} took more than {timeout} s: {outputs[1].read_text()[-2000:]}')
        return Done(process.exitcode, *(file.read_text() for file in outputs))


def _run(words: list[str], cwd: str, environment: dict[str, str], outputs: list[Path]) -> None:
    """Act in the forked process as ``python WORDS``; multiprocessing ends it as Python ends a program."""
    import torch

    for number, file in enumerate(outputs, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment['OMP_NUM_THREADS']))
    os.chdir(cwd)
    sys.argv, sys.path = words, [str(Path(words[0]).resolve().parent), *sys.path]
    runpy.run_path(words[0], run_name='__main__')
