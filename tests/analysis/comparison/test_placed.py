"""The config of a variant: what it writes stays in the folder of its run."""

import pytest

pytest.importorskip('mmcv')

from mmengine.config import Config

from mmkerv.analysis.comparison.placed import variant_config
from mmkerv.analysis.comparison.variant import parse_variant
from mmkerv.errors import ConfigError

PARTS = ('model', 'train_dataloader', 'val_cfg', 'val_dataloader', 'val_evaluator')


def config(**changes):
    parts = {part: dict(type='Any') for part in PARTS}
    return Config(dict(train_cfg=dict(max_epochs=12), **parts, **changes))


@pytest.mark.parametrize('several', [False, True], ids=['one', 'two'])
def test_logs_are_written_into_the_run(several):
    backend = dict(type='LocalVisBackend', save_dir='all_runs')
    visualizer = dict(type='Visualizer', save_dir='all_runs', vis_backends=[backend])
    if several:
        visualizer['vis_backends'].append(dict(type='TensorboardVisBackend', save_dir='all_runs'))
    cfg, _ = variant_config(config(visualizer=visualizer), parse_variant('plain'))
    assert 'all_runs' not in cfg.pretty_text and cfg.visualizer.vis_backends[0].type == 'LocalVisBackend'


def test_optimizers_of_the_library():
    pytest.importorskip('mmpretrain')
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0)
    cfg = config(default_scope='mmpretrain', optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer))
    own, notes = variant_config(cfg, parse_variant('plain:cfg.optim_wrapper.optimizer.type=Lamb'))
    assert own.optim_wrapper.optimizer == dict(type='Lamb', lr=0.1, weight_decay=0.0)
    assert notes == ['optim_wrapper.optimizer.momentum=0.9 left out: Lamb does not take it']
    with pytest.raises(ConfigError, match="no optimizer is called 'Lamp'"):
        variant_config(cfg, parse_variant('plain:cfg.optim_wrapper.optimizer.type=Lamp'))
