"""The network before training, rebuilt for the report, equals the one that mmengine's runner starts with."""

import pytest

pytest.importorskip('mmdet')

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkerv.cli.report.kernels import starting_model
from mmkerv.datasets.shapes import ShapesSettings, write_shapes
from mmkerv.engine.config.read import load_config


class FirstIterationError(Exception):
    pass


class Stop(Hook):
    """Stop the training before the first iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raise FirstIterationError


def test_weights_before_the_first_iteration(tmp_path):
    write_shapes(tmp_path / 'shapes', ShapesSettings(8, 2, 64, layouts=('coco',)), progress=False)
    options = {'data_root': str(tmp_path / 'shapes'), 'randomness.seed': 3, 'work_dir': str(tmp_path / 'work')}
    options |= {'model.backbone.base_channels': 16, 'model.neck.in_channels': [16, 32, 64, 128]}
    cfg = load_config('configs/demo/retinanet_coc_shapes.py', options)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Stop())
    with pytest.raises(FirstIterationError):
        runner.train()
    began = runner.model.state_dict()
    state = torch.random.get_rng_state()
    again, other = (starting_model(cfg, seed).state_dict() for seed in (3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    # Batch norms have counted nothing yet: no forward pass has run.
    assert all(torch.equal(again[name], value) for name, value in began.items())
    name = 'backbone.layer2.0.conv1.weight'
    assert not torch.equal(other[name], began[name])
