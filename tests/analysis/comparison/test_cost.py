"""The cost of networks that cannot be counted, or that cannot be built."""

import argparse

import pytest

pytest.importorskip('mmcv')

from mmengine.config import Config
from torch import nn

from mmkerv.analysis.comparison import cost as module
from mmkerv.analysis.comparison import placed
from mmkerv.analysis.comparison.cost import ASSUMED, Cost, cost
from mmkerv.analysis.comparison.processes import Launch
from mmkerv.analysis.comparison.variant import parse_variants
from mmkerv.analysis.complexity import Complexity
from mmkerv.cli.compare import all_costs, keep_settings
from mmkerv.deploy.fold import shapes_to_try
from mmkerv.errors import ConfigError


@pytest.mark.parametrize('error', [AssertionError, OSError, ConfigError, KeyError, ZeroDivisionError])
def test_what_cannot_be_counted_is_noted(monkeypatch, error):
    def raises(*args):
        raise error('three frames are needed')

    monkeypatch.setattr(module, 'built', lambda cfg: nn.Conv2d(3, 8, 3))
    monkeypatch.setattr(module, 'image_shapes', raises)
    monkeypatch.setattr(module, 'complexity', raises)
    found = cost(Config(dict(model={}, default_scope='mmpretrain')))
    assert found.complexity is None and found.shape == (224, 224) and 'three frames are needed' in found.note


def test_several_test_loaders():
    loader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(96, 64))]))
    assert (64, 96) in shapes_to_try(Config(dict(default_scope='mmpretrain', test_dataloader=[loader])), nn.Identity())


def test_network_that_cannot_be_built_stops_no_other(monkeypatch, tmp_path):
    def costs(cfg):
        if cfg == 'coc':
            raise KeyError('stem')
        return Cost('nothing', (32, 32), None)

    monkeypatch.setattr(module, 'cost', costs)
    monkeypatch.setattr(placed, 'variant_config', lambda cfg, variant: (variant.spec, []))
    found = all_costs(Config(), parse_variants(['coc', 'plain']), tmp_path, keep=False)
    assert found['coc'] == "KeyError: 'stem'" and isinstance(found['plain'], Cost)


def test_cost_on_an_assumed_size_is_counted_again(monkeypatch, tmp_path):
    counts = Complexity(2_000_000, 500_000, 2_000_000, 11_000, 10_000)
    costs = iter([Cost('all', (224, 224), counts, f'{ASSUMED}, there is no test image'), Cost('all', (64, 64), counts)])
    monkeypatch.setattr(module, 'cost', lambda cfg: next(costs))
    monkeypatch.setattr(placed, 'variant_config', lambda cfg, variant: (cfg, []))
    shapes = [all_costs(Config(), parse_variants(['coc']), tmp_path)['coc'].shape for _ in range(3)]
    assert shapes == [(224, 224), (64, 64), (64, 64)]


def test_number_of_processes_is_kept(tmp_path):
    """Without --gpus it is that of the visible GPUs, which may be others at the next start."""
    args = argparse.Namespace(config='a.py', amp=False, auto_scale_lr=False, launcher='pytorch', gpus=None)
    variants, texts = parse_variants(['plain']), {'plain': 'a = 1\n'}
    for _ in range(2):
        keep_settings(args, Launch('pytorch', 2), tmp_path, variants, texts)
    with pytest.raises(ConfigError, match='was begun with processes 2, now it is 4'):
        keep_settings(args, Launch('pytorch', 4), tmp_path, variants, texts)


def test_another_config_is_refused(tmp_path):
    """Its runs would count as those of the first one, also for an operator that was not compared before."""

    def keep(config, spec):
        args = argparse.Namespace(config=config, amp=False, auto_scale_lr=False, launcher='none', gpus=None)
        return keep_settings(args, Launch(), tmp_path, parse_variants([spec]), {spec: 'a = 1\n'})

    keep('a.py', 'plain')
    keep('configs/a.py', 'coc')
    with pytest.raises(ConfigError, match=r'was begun with the config a\.py, now it is b\.py: give another --work-dir'):
        keep('b.py', 'dcls')
