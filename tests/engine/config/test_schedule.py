"""Schedules that are scaled with the length of the training."""

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config

from mmkerv.engine.config.schedule import positions_of_hooks, reschedule
from mmkerv.errors import ConfigError

WARMUP = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500)
COSINE = dict(type='CosineAnnealingLR', begin=1, end=12, T_max=11, by_epoch=True, convert_to_iter_based=True)
STEPS = dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11])


def config(**changes):
    loop = dict(max_epochs=12, val_interval=1)
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=3))
    return Config(dict(train_cfg=loop, param_scheduler=[WARMUP, STEPS], default_hooks=hooks, **changes))


def test_epochs():
    cfg = config()
    changes = reschedule(cfg, epochs=4)
    assert cfg.train_cfg == dict(max_epochs=4, val_interval=1)
    assert cfg.param_scheduler[0].end == 167 and cfg.param_scheduler[0].begin == 0
    assert cfg.param_scheduler[1].milestones == [2, 3] and cfg.param_scheduler[1].end == 4
    assert cfg.default_hooks.checkpoint.interval == 1
    assert changes == [
        'train_cfg.max_epochs 12 -> 4',
        'default_hooks.checkpoint.interval 3 -> 1',
        'param_scheduler.0.end 500 -> 167',
        'param_scheduler.1.end 12 -> 4',
        'param_scheduler.1.milestones [8, 11] -> [2, 3]',
    ]


def test_iterations_and_one_scheduler():
    cfg = Config(
        dict(
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000),
            param_scheduler=dict(type='PolyLR', begin=0, end=40000, by_epoch=False),
        )
    )
    reschedule(cfg, iters=400)
    assert cfg.train_cfg.max_iters == 400 and cfg.train_cfg.val_interval == 40 and cfg.param_scheduler.end == 400


def test_what_has_no_step_is_left_out():
    cfg = config()
    cfg.param_scheduler = [dict(WARMUP, end=10), COSINE, STEPS]
    changes = reschedule(cfg, epochs=1)
    assert [s.type for s in cfg.param_scheduler] == ['CosineAnnealingLR', 'MultiStepLR'][:1]
    assert cfg.param_scheduler[0].begin == 0 and cfg.param_scheduler[0].end == cfg.param_scheduler[0].T_max == 1
    assert sum('left out' in change for change in changes) == 2


def test_schedulers_by_optimizer():
    cfg = config()
    cfg.param_scheduler = dict(generator=[STEPS], discriminator=None)
    reschedule(cfg, epochs=6)
    assert cfg.param_scheduler.generator[0].milestones == [4, 5]


@pytest.mark.parametrize('number', [None, 12])
def test_nothing_changes(number):
    cfg = config()
    before = cfg.pretty_text
    assert reschedule(cfg, epochs=number) == [] and cfg.pretty_text == before


@pytest.mark.parametrize(
    ('flags', 'loop', 'words'),
    [
        (
            dict(iters=10),
            dict(max_epochs=12),
            '--iters: the config counts epochs, .* 12 epochs; use --epochs',
        ),
        (dict(epochs=1), dict(max_iters=7), '--epochs: the config counts iterations'),
        (dict(epochs=1), dict(type='MyLoop'), 'neither max_epochs nor max_iters'),
    ],
)
def test_other_unit(flags, loop, words):
    with pytest.raises(ConfigError, match=words):
        reschedule(Config(dict(train_cfg=loop)), **flags)


def test_schedulers_can_be_built():
    """mmengine refuses a scheduler whose begin is not before its end, and divides by the number of steps."""
    from mmengine.registry import PARAM_SCHEDULERS
    from torch import nn
    from torch.optim import SGD

    kinds = [
        WARMUP,
        COSINE,
        STEPS,
        dict(type='PolyLR', begin=0, end=12),
        dict(type='StepLR', step_size=3),
        dict(type='LinearLR', start_factor=0.1, begin=2, end=5),
        dict(type='CosineRestartLR', periods=[6, 6], restart_weights=[1, 0.5], eta_min=0.0),
        dict(type='OneCycleLR', eta_max=0.1, total_steps=12),
    ]
    for epochs in (1, 2, 3, 5, 24):
        cfg = config()
        cfg.param_scheduler = kinds
        reschedule(cfg, epochs=epochs)
        for scheduler in cfg.param_scheduler:
            optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.1)
            keys = {key: value for key, value in scheduler.items() if key != 'convert_to_iter_based'}
            built = PARAM_SCHEDULERS.build(dict(keys, optimizer=optimizer))
            for _ in range(epochs - 1):
                optimizer.step()
                built.step()


def test_hooks_keep_their_numbers_and_are_named():
    hooks = [dict(type='mmdet.PipelineSwitchHook', switch_epoch=10), dict(type='EMAHook', update_buffers=True)]
    assert positions_of_hooks(config(custom_hooks=hooks)) == ['PipelineSwitchHook.switch_epoch=10']


@pytest.mark.parametrize('epochs', [1, 2, 3, 5, 7, 13, 299])
def test_lengths_reach_from_begin_to_end(epochs):
    """RTMDet's: a cosine that ends before its scheduler would rise again."""
    keys = dict(begin=150, end=300, by_epoch=True, convert_to_iter_based=True)
    schedulers = [
        dict(keys, type='CosineAnnealingLR', T_max=150),
        dict(keys, type='OneCycleLR', total_steps=150),
        dict(keys, type='CosineRestartLR', periods=[30, 50, 70], restart_weights=[1, 1, 1]),
    ]
    cfg = Config(dict(train_cfg=dict(max_epochs=300), param_scheduler=schedulers))
    reschedule(cfg, epochs=epochs)
    for scheduler in cfg.param_scheduler:
        span = scheduler.end - scheduler.begin
        assert scheduler.begin == round(150 * epochs / 300) and scheduler.end == epochs
        assert scheduler.get('T_max', span) == scheduler.get('total_steps', span) == span
        assert sum(scheduler.get('periods', [span])) == span or span < 3
