"""Every config of the repository parses, builds and takes a training step on small synthetic input."""

import copy
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmkerv.engine.deploy_config import deploy_config
from mmkerv.ops import CoCConv2d, switch_to_deploy

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)


def without_downloads(node):
    """The config with every pretrained checkpoint left out: there is no network in tests."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'init_cfg' and isinstance(value, dict) and value.get('type') == 'Pretrained':
                node[key] = None
            else:
                without_downloads(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            without_downloads(item)
    return node


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: str(p.relative_to(ROOT / 'configs')))
def test_config_builds_and_trains_a_step(path):
    cfg = Config.fromfile(path)
    pytest.importorskip(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(without_downloads(copy.deepcopy(cfg.model)))
    model.init_weights()
    operators = [m for m in model.modules() if isinstance(m, CoCConv2d)]
    assert bool(operators) == ('_coc' in path.stem)
    from mmdet.testing import demo_mm_inputs

    batch = model.data_preprocessor(demo_mm_inputs(2, [[3, 64, 64]] * 2, num_classes=3), True)
    model.train()
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for op in operators for p in op.parameters() if p.requires_grad)

    switch_to_deploy(model)
    plain = MODELS.build(without_downloads(deploy_config(cfg).model))
    plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: str(p.relative_to(ROOT / 'configs')))
def test_config_says_what_it_is(path):
    assert path.read_text().startswith('# '), (
        'a config begins with a comment: table, row and published figure, or its purpose'
    )


def test_main_job_is_the_papers_schedule():
    cfg = Config.fromfile(ROOT / 'configs' / 'retinanet_r50_coc.py')
    optimizer, (warmup, steps) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.01, 0.9, 1e-4)
    assert (steps.milestones, steps.gamma, cfg.train_cfg.max_epochs) == ([8, 11], 0.1, 12)
    assert warmup.end == 500
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (4, 16)
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert next(t for t in pipeline if t.type == 'Resize').scale == (1333, 800)
    kinds = [t.type for t in pipeline]
    assert kinds == ['LoadImageFromFile', 'LoadAnnotations', 'Resize', 'RandomFlip', 'PackDetInputs']
    assert cfg.model.backbone.conv_cfg.type == 'mmkerv.CoCConv' and cfg.model.backbone.depth == 50
