"""Weight decay and learning rates of operators' parameters, whatever rules a config has."""

import argparse

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmkerv.engine import OperatorRulesConstructor
from mmkerv.engine.config.prepare import OPERATOR_RULES, add_operator_rules, prepare
from mmkerv.errors import ConfigError
from mmkerv.ops import CKConv2d, CoCConv2d, DCLSConv2d, KervConv2d
from mmkerv.ops.core.base import ConvNd
from tests.ops import catalogue
from tests.ops.examples import MaskedConv2d

SGD = dict(type='SGD', lr=1e-4, momentum=0.9, weight_decay=1e-2)


class Net(nn.Module):
    """A convolution, an operator of each family and a layer scale, in a backbone and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(4, 4, 3), CoCConv2d(4, 8, 3, standardize='ln'), nn.BatchNorm2d(8))
        self.backbone.gamma = nn.Parameter(torch.ones(8))
        self.head = nn.Sequential(KervConv2d(8, 8, 3, learnable=True, groups=8), CKConv2d(8, 8, 3, separable=True))


OWN = ('super_layers', 'balance', 'kernel_net')


def build(model: nn.Module, rules: dict | None = None, **changes) -> OptimWrapper:
    cfg = dict(constructor=OPERATOR_RULES, optimizer=SGD, **({} if rules is None else {'paramwise_cfg': rules}))
    return build_optim_wrapper(model, Config({**cfg, **changes})._cfg_dict)


def settings(wrapper: OptimWrapper, model: nn.Module, key: str) -> dict[str, float]:
    """Return a setting of the parameters by name."""
    found = {id(p): group[key] for group in wrapper.optimizer.param_groups for p in group['params']}
    assert len(found) == sum(len(group['params']) for group in wrapper.optimizer.param_groups)
    return {name: found[id(p)] for name, p in model.named_parameters()}


def decays(*args, **kwargs) -> dict[str, float]:
    return settings(build(*args, **kwargs), args[0], 'weight_decay')


@pytest.mark.parametrize('rules', [None, {}, dict(bias_lr_mult=2.0), dict(custom_keys=dict(head=dict(lr_mult=0.5)))])
def test_own_parameters_have_no_decay_and_all_others_have_it(rules):
    found = decays(Net(), rules)
    assert all(decay == (0.0 if any(name in key for name in OWN) else 1e-2) for key, decay in found.items()), found


@pytest.mark.parametrize('label', catalogue.VARIANTS)
def test_every_operator_gets_what_its_class_says(label):
    op = catalogue.layer(label)
    found = decays(nn.Sequential(op))
    exempt = {f'0.{name}' for name, _ in op.named_parameters() if name.partition('.')[0] in op.no_decay}
    assert found == {f'0.{name}': 0.0 if f'0.{name}' in exempt else 1e-2 for name, _ in op.named_parameters()}


def test_without_rules_the_parameters_are_in_two_groups():
    assert [len(group['params']) for group in build(nn.Sequential(CoCConv2d(4, 4, 3))).optimizer.param_groups] == [2, 1]


def test_keys_that_exempt_operators_do_not_cancel_shorter_ones():
    """DETR's learning rate of the backbone, with the key that mmkerv's documentation used to recommend."""
    keys = dict(backbone=dict(lr_mult=0.1), super_layers=dict(decay_mult=0.0))
    model = Net()
    wrapper = build(model, dict(custom_keys=keys))
    lr = settings(wrapper, model, 'lr')
    assert lr == {name: pytest.approx(1e-5 if 'backbone' in name else 1e-4) for name in lr}
    assert settings(wrapper, model, 'weight_decay')['backbone.1.super_layers.0.weight'] == 0


def test_such_keys_still_apply_to_other_layers():
    """The layer scale of ConvNeXt is called gamma too."""
    model = nn.ModuleDict({'b': KervConv2d(4, 4, 3, kernel='gaussian', learnable=True), 'block': nn.Module()})
    model['block'].gamma = nn.Parameter(torch.ones(4))
    rules = dict(custom_keys=dict(b=dict(lr_mult=0.1), gamma=dict(decay_mult=0.0)))
    wrapper = build(model, rules)
    lr, decay = settings(wrapper, model, 'lr'), settings(wrapper, model, 'weight_decay')
    assert (lr['b.gamma'], decay['b.gamma']) == (pytest.approx(1e-5), 0)
    assert (lr['block.gamma'], decay['block.gamma']) == (1e-4, 0)


@pytest.mark.parametrize('key', ['super_layers', 'backbone.1.super_layers'])
def test_a_key_that_names_the_parameters_takes_precedence(key):
    model = Net()
    name = 'backbone.1.super_layers.0.weight'
    wrapper = build(model, dict(custom_keys={key: dict(decay_mult=0.5)}))
    assert settings(wrapper, model, 'weight_decay')[name] == 5e-3
    wrapper = build(model, dict(custom_keys={key: dict(lr_mult=0.5)}))
    assert settings(wrapper, model, 'weight_decay')[name] == 0
    assert settings(wrapper, model, 'lr')[name] == 5e-5


def test_rules_for_depthwise_convolutions_and_norms_reach_operators():
    found = decays(Net(), dict(dwconv_decay_mult=0.1, norm_decay_mult=0.2, bias_decay_mult=0.3))
    plain = decays(Net())
    changed = {name: decay / 1e-2 for name, decay in found.items() if decay != plain[name]}
    assert changed == {
        'backbone.0.bias': pytest.approx(0.3),
        'backbone.1.bias': pytest.approx(0.3),
        'backbone.1.kernel_norm_weight': pytest.approx(0.2),
        'backbone.1.kernel_norm_bias': pytest.approx(0.2),
        'backbone.2.weight': pytest.approx(0.2),
        'backbone.2.bias': pytest.approx(0.2),
        'head.0.weight': pytest.approx(0.1),
        'head.0.bias': pytest.approx(0.3),
        'head.1.bias': pytest.approx(0.3),
    }
    keyed = decays(Net(), dict(norm_decay_mult=0.2, custom_keys={'backbone.1': dict(lr_mult=0.5)}))
    assert keyed['backbone.1.kernel_norm_weight'] == 1e-2


def test_rule_for_offsets_of_deformable_layers_reaches_operators():
    mmcv = pytest.importorskip('mmcv.ops')
    model = nn.Sequential(mmcv.ModulatedDeformConv2dPack(4, 4, 3))
    model[0].conv_offset = CoCConv2d(4, 27, 3)
    lr = settings(build(model, dict(dcn_offset_lr_mult=0.1)), model, 'lr')
    assert lr['0.conv_offset.weight'] == pytest.approx(1e-5) and lr['0.weight'] == 1e-4


def test_factor_on_the_learning_rate():
    class Positioned(MaskedConv2d):
        lr_mult = {'mask': 5.0}

    model = nn.Sequential(nn.Sequential(Positioned(4, 4, 3)))
    wrapper = build(model, dict(custom_keys={'0.0': dict(lr_mult=0.5)}))
    lr = settings(wrapper, model, 'lr')
    assert (lr['0.0.weight'], lr['0.0.mask']) == (5e-5, pytest.approx(2.5e-4))
    assert settings(wrapper, model, 'weight_decay')['0.0.mask'] == 0
    wrapper = build(model, dict(custom_keys=dict(mask=dict(lr_mult=1.0))))
    assert settings(wrapper, model, 'lr')['0.0.mask'] == 1e-4


@pytest.mark.parametrize('rules', [None, dict(custom_keys=dict(super_layers=dict(decay_mult=0.0)), norm_decay_mult=0)])
def test_switched_off_it_is_mmengines(rules):
    model = Net()
    found = build(model, dict(rules or {}, operator_rules=False))
    upstream = build_optim_wrapper(model, dict(optimizer=SGD, **({'paramwise_cfg': rules} if rules else {})))
    assert list(map(str, found.param_groups)) == list(map(str, upstream.param_groups))
    with pytest.raises(ConfigError, match=r"paramwise_cfg\.operator_rules must be True or False, got 'no'"):
        build(model, dict(operator_rules='no'))


def test_plain_network_is_mmengines():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4))
    for rules in (None, dict(custom_keys=dict(gamma=dict(decay_mult=0.0))), dict(dwconv_decay_mult=0.0)):
        upstream = build_optim_wrapper(model, dict(optimizer=SGD, **({'paramwise_cfg': rules} if rules else {})))
        assert list(map(str, build(model, rules).param_groups)) == list(map(str, upstream.param_groups))


def test_the_log_names_the_settings_in_force(monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.engine.optim.operator_rules.log', lines.append)
    build(Net(), dict(norm_decay_mult=0.0))
    facts = 'balance of KervConv (1)', 'kernel_net of CKConv (6)', 'kernel_norm_bias of CoCConv (1)'
    facts += 'kernel_norm_weight of CoCConv (1)', 'super_layers of CoCConv (1)'
    assert lines.pop() == (
        "mmkerv: the operators' own weight decay and learning rates: "
        f'{"; ".join(f"{fact}: weight decay 0 (others 0.01)" for fact in facts)}; '
        'optim_wrapper.paramwise_cfg.operator_rules=False turns this off'
    )
    # What a key of the config says instead, and learning rates.
    build(DCLSConv2d(4, 8, 3), dict(custom_keys=dict(positions=dict(decay_mult=0.5))))
    assert ': positions of DCLSConv (1): weight decay 0.005 (others 0.01), learning rate x5; ' in lines.pop()
    build(Net(), dict(operator_rules=False))
    assert lines.pop().startswith('mmkerv: optim_wrapper.paramwise_cfg.operator_rules=False: ')
    # Nothing decays, so nothing is exempt.
    build(Net(), optimizer=dict(type='SGD', lr=0.1))
    build(nn.Conv2d(3, 8, 3), dict(operator_rules=False))
    assert not lines


class TwoOptimizers(DefaultOptimWrapperConstructor):
    """A constructor as generative networks have it: one optimizer for each part."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.cfg, self.seen = optim_wrapper_cfg, paramwise_cfg

    def __call__(self, model):
        assert self.seen == {'mine': 1}
        parts = {
            name: build_optim_wrapper(part, dict(optimizer=self.cfg[name])) for name, part in model.named_children()
        }
        return OptimWrapperDict(**parts)


def test_constructor_of_the_config_is_kept(monkeypatch):
    monkeypatch.setitem(OPTIM_WRAPPER_CONSTRUCTORS._module_dict, 'TwoOptimizers', TwoOptimizers)
    cfg = Config(
        dict(
            optim_wrapper=dict(
                constructor='TwoOptimizers',
                backbone=SGD,
                head=dict(type='AdamW', lr=0.1, weight_decay=0.05),
                paramwise_cfg=dict(mine=1),
            )
        )
    )
    add_operator_rules(cfg)
    add_operator_rules(cfg)
    assert cfg.optim_wrapper.constructor == OPERATOR_RULES
    assert cfg.optim_wrapper.paramwise_cfg == dict(mine=1, constructor='TwoOptimizers')
    model = Net()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for (key, part), default in zip(model.named_children(), (1e-2, 0.05)):
        for name, decay in settings(wrapper[key], part, 'weight_decay').items():
            assert decay == (0 if any(own in name for own in OWN) else default), name


@pytest.mark.parametrize(
    'wrapper', [None, dict(a=dict(type='OptimWrapper'), b=dict(type='OptimWrapper')), dict(optimizer=None)]
)
def test_other_optimizer_configs_stay(wrapper):
    cfg = Config(dict(optim_wrapper=wrapper))
    before = cfg.to_dict()
    add_operator_rules(cfg)
    assert cfg.to_dict() == before


def test_the_training_tool_adds_it(tmp_path):
    cfg = Config(dict(optim_wrapper=dict(optimizer=SGD), work_dir=str(tmp_path), model=dict()))
    args = argparse.Namespace(config='a.py', work_dir=None, launcher='none')
    prepare(cfg, args, ('train',))
    assert cfg.optim_wrapper == dict(optimizer=SGD, constructor=OPERATOR_RULES)


def test_a_run_is_resumed_with_the_same_groups():
    model = Net()
    rules = dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
    first, second = build(model, rules), build(model, rules)
    sum(p.sum() for p in model.parameters()).backward()
    first.step()
    second.load_state_dict(first.state_dict())
    for p in model.parameters():
        torch.testing.assert_close(
            second.optimizer.state[p]['momentum_buffer'], first.optimizer.state[p]['momentum_buffer']
        )


def test_frozen_parameters_stay_out_as_upstream_has_it():
    model = Net()
    model.backbone.requires_grad_(False)
    rules = dict(custom_keys=dict(head=dict(lr_mult=0.1)))
    found, upstream = build(model, rules), build_optim_wrapper(model, dict(optimizer=SGD, paramwise_cfg=rules))
    first, second = (
        {id(p) for group in wrapper.optimizer.param_groups for p in group['params']} for wrapper in (found, upstream)
    )
    assert first == second and first >= set(map(id, model.head.parameters()))


class Staged(BaseModel):
    """A ConvNeXt with operators, with what the layer-decay constructors of the libraries ask for."""

    def __init__(self):
        super().__init__()
        from mmengine.registry import MODELS

        import mmkerv

        self.backbone = MODELS.build(
            dict(type='mmpretrain.ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[4, 4, 8, 8]))
        )
        mmkerv.convert(self.backbone, dict(type='CoCConv'), where=dict(stem=False, kernel_sizes=(7,)))
        assert any(isinstance(m, ConvNd) for m in self.backbone.modules())

    def get_layer_depth(self, name):
        return self.backbone.get_layer_depth(name, prefix='backbone.')

    def forward(self, *args, **kwargs):
        pass


DECAY = dict(decay_rate=0.5, decay_type='layer_wise', num_layers=6)


@pytest.mark.parametrize(
    'constructor, rules',
    [
        ('mmpretrain.LearningRateDecayOptimWrapperConstructor', dict(layer_decay_rate=0.5)),
        ('mmdet.LearningRateDecayOptimizerConstructor', DECAY),
        ('mmseg.LearningRateDecayOptimizerConstructor', DECAY),
    ],
)
def test_inside_layer_decay_of_the_libraries(constructor, rules):
    pytest.importorskip('mmpretrain')
    pytest.importorskip(constructor.partition('.')[0])
    model = Staged()
    cfg = dict(optimizer=SGD, paramwise_cfg=rules, constructor=constructor)
    upstream = build_optim_wrapper(model, Config(cfg)._cfg_dict)
    wrapped = build(model, dict(rules, constructor=constructor))
    assert settings(wrapped, model, 'lr') == settings(upstream, model, 'lr')
    assert len({*settings(wrapped, model, 'lr').values()}) > 3
    before, after = settings(upstream, model, 'weight_decay'), settings(wrapped, model, 'weight_decay')
    assert {n for n in after if after[n] != before[n]} == {n for n in after if 'super_layers' in n}
    # Lists of names stay beside the parameters they name.
    names = {id(p): n for n, p in model.named_parameters()}
    for group in wrapped.optimizer.param_groups:
        if 'param_names' in group:
            assert group['param_names'] == [names[id(p)] for p in group['params']]


def test_class_as_type_and_zero_redundancy(tmp_path):
    cfg = Config(dict(optim_wrapper=dict(optimizer=SGD, constructor=OperatorRulesConstructor)))
    add_operator_rules(cfg)
    assert cfg.optim_wrapper.constructor is OperatorRulesConstructor and 'paramwise_cfg' not in cfg.optim_wrapper
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        model = nn.Sequential(CoCConv2d(4, 4, 3))
        wrapper = build(model, optimizer=dict(SGD, type='ZeroRedundancyOptimizer', optimizer_type='SGD'))
        assert settings(wrapper, model, 'weight_decay')['0.super_layers.0.weight'] == 0
        before = model[0].super_layers[0].weight.data.fill_(1.0).clone()
        sum(0 * p.sum() for p in model.parameters()).backward()
        wrapper.step()
        assert torch.equal(model[0].super_layers[0].weight, before)
    finally:
        torch.distributed.destroy_process_group()
