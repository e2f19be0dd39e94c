"""Layer-wise learning rates: factors by layer, with the rules of the config and of the operators."""

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

pytest.importorskip('mmcv')

from mmkerv.deploy.config import deploy_config
from mmkerv.engine import LayerDecayConstructor
from mmkerv.engine.config.prepare import add_operator_rules
from mmkerv.engine.optim import layer_decay
from mmkerv.errors import ConfigError
from mmkerv.models import TimmBackbone, UniRepLKNet
from mmkerv.ops import DCLSConv2d, KervConv2d

LR = 1e-4


class Detector(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), KervConv2d(4, 4, 3, learnable=True), DCLSConv2d(4, 4, 3))


def groups(model, rules, key='lr'):
    cfg = dict(
        constructor='mmkerv.LayerDecayConstructor',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=0.05),
        paramwise_cfg=rules,
    )
    optimizer = build_optim_wrapper(model, Config(cfg)._cfg_dict).optimizer
    found = {id(p): group[key] for group in optimizer.param_groups for p in group['params']}
    assert len(found) == sum(len(group['params']) for group in optimizer.param_groups)
    return {name: found[id(p)] for name, p in model.named_parameters()}


def check(model, rules=None):
    """Compare with the published formula, and return the learning rates by name."""
    rates = groups(model, {'layer_decay_rate': 0.8, **(rules or {})})
    for name, _ in model.backbone.named_parameters():
        layer, count = model.backbone.get_layer_depth(f'backbone.{name}', 'backbone.')
        factor = 5.0 if name.endswith('.positions') else 1.0
        assert rates[f'backbone.{name}'] == pytest.approx(LR * factor * 0.8 ** (count - 1 - layer)), name
    return rates


def test_unireplknet_has_the_published_rates(monkeypatch):
    lines = []
    monkeypatch.setattr(layer_decay, 'log', lines.append)
    model = Detector(UniRepLKNet('A', out_indices=(0, 1, 2, 3), gap_before_final_norm=False))
    rates = check(model)
    # Layers 0 to 13 of the authors' detectors: the stem, stages, the blocks of the third by three, the last, norms.
    expected = {
        'downsample_layers.0.0': 0,
        'stages.0.0.norm': 1,
        'stages.2.5.norm': 4,
        'stages.3.1.norm': 12,
        'norm3': 13,
    }
    for name, layer in expected.items():
        assert rates[f'backbone.{name}.weight'] == pytest.approx(LR * 0.8 ** (13 - layer))
    assert rates['head.0.weight'] == LR
    (line,) = lines
    assert line.startswith('mmkerv: layer_decay_rate=0.8, factor of the learning rate by layer (parameters): 0: x0.055')
    assert line.endswith('13: x1 (8); others: x1')


def test_timm_and_the_operators_own_factors():
    pytest.importorskip('timm')
    dcls = dict(type='DCLSConv', kernel_extent=9)
    model = Detector(TimmBackbone('convnext_atto', conv_cfg=dcls, where=dict(stages=(3,), kernel_sizes=(7,))))
    rates = check(model)
    assert any(name.startswith('backbone') and name.endswith('.positions') for name in rates)
    assert rates['head.2.positions'] == pytest.approx(5 * LR)
    decays = groups(model, {'layer_decay_rate': 0.8, 'norm_decay_mult': 0.0}, 'weight_decay')
    assert decays['head.1.balance'] == decays['head.2.positions'] == 0
    assert decays['backbone.timm_model.stages_3.blocks.0.norm.weight'] == 0
    assert decays['backbone.timm_model.stages_3.blocks.0.conv_dw.weight'] == 0.05


def test_keys_of_the_config_count_in_addition():
    model = Detector(UniRepLKNet('A'))
    rates = groups(model, dict(layer_decay_rate=0.8, custom_keys={'stages.3': dict(lr_mult=0.1)}))
    assert rates['backbone.stages.3.0.norm.weight'] == pytest.approx(LR * 0.1 * 0.8)


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_it_is_found_in_every_library(library):
    pytest.importorskip(library)
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(library):
        groups(Detector(UniRepLKNet('A')), dict(layer_decay_rate=0.7))


def test_backbones_of_mmpretrain_have_layers():
    models = pytest.importorskip('mmpretrain.models')
    rates = groups(Detector(models.ConvNeXt('atto')), dict(layer_decay_rate=0.5))
    assert min(rates.values()) < LR * 0.5**5


def test_a_classifier_of_mmpretrain_is_asked_by_its_backbone():
    """Its own method of this name has no prefix."""
    models = pytest.importorskip('mmpretrain.models')
    model = models.ImageClassifier(UniRepLKNet('A'), data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'))
    assert len(groups(model, dict(layer_decay_rate=0.8))) > 7


def test_the_train_tool_leaves_it_alone_and_the_deploy_config_drops_it():
    wrapper = dict(constructor='mmkerv.LayerDecayConstructor', optimizer=dict(type='AdamW', lr=LR))
    wrapper['paramwise_cfg'] = dict(layer_decay_rate=0.7, norm_decay_mult=0.0)
    cfg = Config(dict(optim_wrapper=wrapper, model=dict(backbone=dict(type='ResNet', conv_cfg=dict(type='CoCConv')))))
    before = cfg.optim_wrapper.to_dict()
    add_operator_rules(cfg)
    assert cfg.optim_wrapper.to_dict() == before
    assert deploy_config(cfg).optim_wrapper.paramwise_cfg == {'norm_decay_mult': 0.0}


@pytest.mark.parametrize('rules', [None, {}, dict(layer_decay_rate=0), dict(layer_decay_rate='0.8')], ids=str)
def test_the_rate_must_be_given(rules):
    with pytest.raises(ConfigError, match=r'layer_decay_rate must be a number in \(0, 1\], got'):
        LayerDecayConstructor(dict(optimizer=dict(type='AdamW', lr=LR)), rules)


def test_a_backbone_without_layers_is_named():
    with pytest.raises(ConfigError, match='Identity has no get_layer_depth'):
        groups(Detector(nn.Identity()), dict(layer_decay_rate=0.8))
