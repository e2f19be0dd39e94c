"""Data and small settings for tests that train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A RetinaNet that trains an iteration in a second.
SMALL = [
    'train_dataloader.batch_size=2',
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
]


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    """Six training and two held-out scenes of 64 x 64 pixels in COCO's layout."""
    from mmkerv.datasets.shapes import ShapesSettings, write_shapes

    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, ShapesSettings(num_train=6, num_val=2, size=64, layouts=('coco',)), progress=False)
    return root


@pytest.fixture(scope='session')
def run():
    """Run a Python script as a user would; fails with its output."""

    def run(*command: object, cwd: Path = ROOT, **environment: str) -> str:
        env = {**os.environ, 'OMP_NUM_THREADS': '1', **environment}
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope='session')
def trained(shapes, run, tmp_path_factory) -> Path:
    """Work folder of three iterations of the demo's RetinaNet with operators, by our train.py."""
    pytest.importorskip('mmdet')
    work = tmp_path_factory.mktemp('trained')
    options = ['--cfg-options', f'data_root={shapes}', *SMALL]
    (work / 'log.txt').write_text(
        run('tools/train.py', 'configs/demo/retinanet_coc_shapes.py', '--work-dir', work, *options)
    )
    return work
