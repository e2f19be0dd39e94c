"""Runs that are compared log and save often enough, in their own folders."""

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config

from mmkerv.analysis.comparison.resumable import resumable
from mmkerv.engine.config.schedule import length


def test_resumable():
    cfg = Config(dict(train_cfg=dict(max_epochs=12)))
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=12, save_best='auto'))
    resumable(cfg)
    checkpoint = cfg.default_hooks.checkpoint
    assert checkpoint.interval == 3 and checkpoint.max_keep_ckpts == 1 and checkpoint.by_epoch
    assert cfg.default_hooks.logger == dict(type='LoggerHook', ignore_last=False, log_metric_by_epoch=True)
    assert str(length(cfg)) == '12 epochs'


def test_runs_write_into_their_own_folders():
    """In a folder of the config, a run would resume from the checkpoint of another variant with its seed."""
    cfg = Config(dict(train_cfg=dict(max_iters=40)))
    cfg.default_hooks = dict(
        logger=dict(type='LoggerHook', out_dir='s3://logs', backend_args=dict(backend='petrel')),
        checkpoint=dict(
            type='CheckpointHook', out_dir='all', save_begin=20, save_optimizer=False, save_param_scheduler=False
        ),
        visualization=dict(type='VisualizationHook', out_dir='all'),
        timer=None,
    )
    resumable(cfg)
    logger, checkpoint = cfg.default_hooks.logger, cfg.default_hooks.checkpoint
    assert not {'out_dir', 'backend_args', 'save_begin'} & {*logger, *checkpoint, *cfg.default_hooks.visualization}
    assert checkpoint.save_optimizer and checkpoint.save_param_scheduler
    assert logger.log_metric_by_epoch is False
