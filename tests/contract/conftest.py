"""Data and small settings for tests that train."""

from pathlib import Path

import pytest

from tests.tool_process import run_tool

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
    """Run a tool as a user would; fail with its output."""

    def run(*command: object, cwd: Path = ROOT, **environment: str) -> str:
        done = run_tool(*command, cwd=cwd, **environment)
        assert done.status == 0, (done.out + done.err)[-6000:]
        return done.out + done.err

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
