import numpy as np
import pytest

from tests.engine.tiny_runner import tiny_runner


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """A checkpoint of a runner with averaged weights, and the runner."""
    runner = tiny_runner(tmp_path_factory.mktemp('trained'), custom_hooks=[{'type': 'EMAHook'}])
    runner.train()
    runner.message_hub.update_info('numbers', {'f': np.float64(0.5), 'i': np.int64(3), 'b': np.bool_(True)})
    runner.message_hub.update_info('arrays', [np.arange(3), np.ones((2, 2), np.float16), np.array(['a', 'bc'])])
    meta = {'dataset_meta': {'classes': ('a', 'b'), 'palette': [(0, 1, 2)], 'ids': {1, 2}, 'mean': np.float32(0.1)}}
    runner.save_checkpoint(runner.work_dir, 'it.pth', meta=meta)
    return runner
