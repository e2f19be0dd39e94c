"""A training in epochs turned into one in iterations, with the same learning rates."""

import pytest

pytest.importorskip('mmengine')

import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from mmkerv.engine.config.by_iterations import count_iterations, limit_iterations
from mmkerv.errors import ConfigError

SCHEDULERS = {
    'steps': dict(type='MultiStepLR', milestones=[2, 3], gamma=0.1),
    'step': dict(type='StepLR', step_size=2, gamma=0.5),
    'cosine': dict(type='CosineAnnealingLR', T_max=4, eta_min=0.01),
    'exponential': dict(type='ExponentialLR', gamma=0.5),
}


def rates(scheduler: dict, steps: int) -> list[float]:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    built = PARAM_SCHEDULERS.build({**scheduler, 'optimizer': optimizer})
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        built.step()
    return found


@pytest.mark.parametrize('name', SCHEDULERS)
def test_the_rate_at_each_epoch_stays(name):
    cfg = Config(dict(train_cfg=dict(max_epochs=4), param_scheduler=[dict(SCHEDULERS[name])]))
    before = rates(dict(SCHEDULERS[name]), 4)
    count_iterations(cfg, 10)
    assert cfg.train_cfg.max_iters == 40 and cfg.param_scheduler[0].by_epoch is False
    assert rates(cfg.param_scheduler[0], 40)[::10] == pytest.approx(before)


@pytest.mark.parametrize('kind', ['PolyLR', 'LinearLR', 'CosineAnnealingLR', 'MultiStepLR'])
def test_rates_are_those_of_mmengine_in_iterations(kind):
    own = dict(MultiStepLR=dict(milestones=[2, 3]), LinearLR=dict(start_factor=0.1)).get(kind, dict(eta_min=0.01))
    scheduler = dict(type=kind, begin=1, end=4, by_epoch=True, **own)
    cfg = Config(dict(train_cfg=dict(max_epochs=4), param_scheduler=[dict(scheduler, convert_to_iter_based=True)]))
    count_iterations(cfg, 10)
    expected = rates(dict(scheduler, convert_to_iter_based=True, epoch_length=10), 40)
    assert rates(cfg.param_scheduler[0], 40) == pytest.approx(expected)


def test_loop_hooks_and_log():
    loop = dict(by_epoch=True, max_epochs=4, val_interval=2, val_begin=3, dynamic_intervals=[(3, 1)])
    warmup = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5)
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=2), logger=dict(type='LoggerHook', interval=50))
    cfg = Config(dict(train_cfg=loop, param_scheduler=warmup, default_hooks=hooks))
    count_iterations(cfg, 10)
    assert cfg.train_cfg == dict(
        type='IterBasedTrainLoop', max_iters=40, val_interval=20, val_begin=21, dynamic_intervals=[(21, 10)]
    )
    assert cfg.param_scheduler == warmup
    assert cfg.default_hooks.checkpoint == dict(type='CheckpointHook', interval=20, by_epoch=False)
    assert cfg.default_hooks.logger.log_metric_by_epoch is False and cfg.log_processor == dict(by_epoch=False)


def test_evaluations_stay_as_often_and_come_at_the_end():
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook', interval=50))
    for iters, interval, logged in ((3, 3, 1), (25, 10, 1), (200, 10, 10)):
        cfg = Config(dict(train_cfg=dict(max_epochs=4, val_interval=1), default_hooks=hooks))
        limit_iterations(cfg, iters, lambda: 10)
        assert cfg.train_cfg.max_iters == iters and cfg.train_cfg.val_interval == interval
        assert cfg.default_hooks.checkpoint.interval == interval and cfg.default_hooks.logger.interval == logged


def test_iterations_are_not_counted_where_the_config_does():
    poly = dict(type='PolyLR', by_epoch=False, begin=0, end=100)
    cfg = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=100, val_interval=50), param_scheduler=poly))
    told = limit_iterations(cfg, 10, lambda: pytest.fail('the data was read'))
    assert told == ['100 iterations -> 10 iterations', 'param_scheduler.end 100 -> 10']


def test_hooks_with_positions_are_named():
    hook = dict(type='YOLOXModeSwitchHook', num_last_epochs=15)
    cfg = Config(dict(train_cfg=dict(max_epochs=4), custom_hooks=[hook]))
    assert 'YOLOXModeSwitchHook.num_last_epochs=15' in limit_iterations(cfg, 10, lambda: 10)[-1]


def test_a_loop_of_its_own_is_refused():
    with pytest.raises(ConfigError, match="by 'SelfLoop'"):
        limit_iterations(Config(dict(train_cfg=dict(type='SelfLoop', max_epochs=4))), 10, lambda: 10)
