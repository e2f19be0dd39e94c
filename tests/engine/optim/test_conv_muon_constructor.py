"""Which parameters ConvMuon orthogonalises, with the rules of configs and operators, in runs and over processes."""

import copy
import logging
import re

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

pytest.importorskip('mmcv')

import mmkerv
from mmkerv.deploy.config import deploy_config
from mmkerv.engine import ConvMuon
from mmkerv.engine.config.prepare import add_operator_rules, use_amp
from mmkerv.engine.optim import conv_muon_constructor
from mmkerv.engine.optim.conv_muon_constructor import parameter_roles
from mmkerv.errors import ConfigError
from mmkerv.ops import CKConv2d, CoCConv2d, DCLSConv2d, FDConv2d
from mmkerv.ops.core.base import ConvNd
from tests.contract.test_distribution import free_port
from tests.engine.optim.muon_networks import WRAPPER, HiddenModel, plain_model, train, worker
from tests.engine.small_networks import mask_rcnn, retinanet
from tests.engine.tiny_runner import tiny_runner
from tests.ops import catalogue

REST = dict(type='AdamW', lr=1e-3, weight_decay=0.05)


def build(model, muon=None, **rules):
    cfg = dict(
        constructor='mmkerv.ConvMuonConstructor',
        optimizer=dict(type='mmkerv.ConvMuon', lr=0.02, weight_decay=0.1, **(muon or {})),
        paramwise_cfg={'rest': REST, **rules},
    )
    return build_optim_wrapper(model, Config(cfg)._cfg_dict)


def settings(wrapper, model, key):
    """Return a setting of the parameters by name."""
    found = {id(p): group[key] for group in wrapper.optimizer.param_groups for p in group['params']}
    assert len(found) == sum(len(group['params']) for group in wrapper.optimizer.param_groups)
    return {name: found[id(p)] for name, p in model.named_parameters()}


def hidden(model, **rules):
    return {name for name, rule in settings(build(model, **rules), model, 'rule').items() if rule == 'muon'}


def reasons(model):
    return {name: role.reason for name, role in parameter_roles(model).items()}


def library_model(cfg):
    pytest.importorskip(cfg.default_scope)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


@pytest.fixture(scope='module')
def resnet():
    pytest.importorskip('mmpretrain')
    model = library_model(
        Config(
            dict(
                default_scope='mmpretrain',
                model=dict(
                    type='ImageClassifier',
                    backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=32, base_channels=32),
                    neck=dict(type='GlobalAveragePooling'),
                    head=dict(type='LinearClsHead', in_channels=256, num_classes=32),
                ),
            )
        )
    )
    for stage, kind in ((1, 'CoCConv'), (2, 'CKConv'), (3, 'FDConv')):
        mmkerv.convert(model, dict(type=kind), where=dict(stages=(stage,), kernel_sizes='>1', stem=False))
    return model


def test_a_resnet_with_operators_is_divided(resnet):
    """As many classes as a stage has channels: the last layer is told by what lies outside the stages."""
    conv = re.compile(r'backbone\.layer[1-4]\.\d\.(conv\d|downsample\.0)\.weight')
    found = hidden(resnet)
    assert found == {name for name, _ in resnet.named_parameters() if conv.fullmatch(name)}
    assert len(found) == 15, 'CKConv of the second stage has no basic weight'
    why = reasons(resnet)
    assert why['backbone.conv1.weight'] == 'stem' and why['head.fc.weight'] == 'last layers'
    own = {name for name, reason in why.items() if reason == "operators' own"}
    assert own == {
        f'{prefix}.{name}'
        for prefix, module in resnet.named_modules()
        if isinstance(module, ConvNd)
        for name, _ in module.named_parameters()
        if name not in ('weight', 'bias')
    }
    parts = ('super_layers', 'kernel_net', 'gate')
    assert all(any(part in name for name in own) for part in parts), sorted(own)
    for name, parameter in resnet.named_parameters():
        if parameter.dim() == 1 and name not in own:
            assert why[name] == 'norms, biases and other vectors', name


@pytest.mark.parametrize('label', catalogue.VARIANTS)
def test_of_every_operator_only_the_basic_weight_is_hidden(label):
    op = catalogue.layer(label, 8, 8)
    model = nn.Sequential(nn.Linear(4, 4), op, nn.Linear(4, 4), nn.Linear(4, 2))
    found = {name for name, reason in reasons(model).items() if not reason}
    assert found - {'1.weight'} == {'2.weight'}
    weight = op.weight
    is_dense = weight is not None and weight.dim() > 1 and weight.shape[1] > 1
    assert ('1.weight' in found) == is_dense


def test_a_detector_is_divided():
    model = library_model(retinanet())
    why = reasons(model)
    ends = {name for name, reason in why.items() if reason in ('stem', 'last layers')}
    assert ends == {'backbone.conv1.weight', 'bbox_head.retina_cls.weight', 'bbox_head.retina_reg.weight'}
    for name in (
        'neck.lateral_convs.0.conv.weight',
        'bbox_head.cls_convs.0.conv.weight',
        'neck.fpn_convs.3.conv.weight',
    ):
        assert why[name] == '', name


def test_a_detector_of_two_stages_is_divided():
    model = library_model(mask_rcnn())
    why = reasons(model)
    assert {name for name, reason in why.items() if reason == 'last layers'} == {
        'rpn_head.rpn_cls.weight',
        'rpn_head.rpn_reg.weight',
        'roi_head.bbox_head.fc_cls.weight',
        'roi_head.bbox_head.fc_reg.weight',
        'roi_head.mask_head.conv_logits.weight',
    }
    for name in ('rpn_head.rpn_conv.weight', *(f'roi_head.bbox_head.shared_fcs.{i}.weight' for i in (0, 1))):
        assert why[name] == '', name
    # A transposed convolution has no filter in a row.
    assert why['roi_head.mask_head.upsample.weight'] == 'not the weight of a convolution or linear layer'


def test_depthwise_parametrized_and_other_weights():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Conv2d(16, 8, 3, groups=4),
        nn.Conv2d(8, 1, 1),
        nn.Embedding(4, 4),
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
        nn.MultiheadAttention(4, 2),
        nn.LayerNorm((4, 4)),
        nn.Linear(4, 2),
    )
    depthwise, unknown = 'depthwise', 'not the weight of a convolution or linear layer'
    found = {name: reason for name, reason in reasons(model).items() if 'bias' not in name}
    assert found == {
        '0.weight': 'stem',
        '1.weight': depthwise,
        '2.weight': depthwise,
        '3.weight': '',
        '4.weight': depthwise,
        '5.weight': unknown,
        '6.parametrizations.weight.original': unknown,
        '7.in_proj_weight': unknown,
        '7.out_proj.weight': '',
        '8.weight': unknown,
        '9.weight': 'last layers',
    }
    wrapper = build(model)
    assert settings(wrapper, model, 'rule')['3.weight'] == 'muon'
    (groups,) = {group['groups'] for group in wrapper.optimizer.param_groups if model[3].weight in set(group['params'])}
    assert groups == 4


def test_offsets_of_deformable_layers_are_the_rests():
    ops = pytest.importorskip('mmcv.ops')
    model = nn.Sequential(nn.Conv2d(3, 4, 3), ops.ModulatedDeformConv2dPack(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1))
    found = reasons(model)
    assert found['1.weight'] == '' and found['1.conv_offset.weight'] == 'offsets and attention'


def test_operators_at_the_ends_of_a_network_without_stages():
    """The stem has no basic weight, and the last modules are the gates of the last operator."""
    model = nn.Sequential(CKConv2d(3, 8, 3), nn.Linear(8, 8), FDConv2d(8, 8, 3))
    assert [name for name, reason in reasons(model).items() if not reason] == ['1.weight']
    assert reasons(model)['2.weight'] == 'last layers'


def test_shared_weights_are_hidden_where_every_layer_is():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    assert [name for name, reason in reasons(model).items() if not reason] == ['1.weight']
    assert hidden(model) == {'1.weight'}
    model[3].weight = model[1].weight
    assert [name for name, reason in reasons(model).items() if not reason] == []


class Net(nn.Module):
    """A stem, two hidden layers with a norm, operators' own parameters, and a last layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.coc, self.norm = CoCConv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.dcls = DCLSConv2d(4, 4, 3)
        self.last = nn.Linear(4, 2)


def test_factors_apply_to_each_rules_own_rate_and_decay():
    model = Net()
    wrapper = build(
        model,
        norm_decay_mult=0.0,
        bias_lr_mult=2.0,
        custom_keys={'coc.weight': dict(lr_mult=0.5, decay_mult=0.1), 'last.weight': dict(lr_mult=0.1)},
    )
    lr, decay = settings(wrapper, model, 'lr'), settings(wrapper, model, 'weight_decay')
    assert (lr['coc.weight'], decay['coc.weight']) == (0.01, pytest.approx(0.01))
    assert (lr['dcls.weight'], decay['dcls.weight']) == (0.02, 0.1)
    assert (lr['last.weight'], decay['last.weight']) == (pytest.approx(1e-4), 0.05)
    assert (lr['dcls.positions'], decay['dcls.positions']) == (pytest.approx(5e-3), 0)
    assert (lr['stem.bias'], decay['stem.bias']) == (2e-3, 0.05)
    assert (lr['norm.weight'], decay['norm.weight']) == (1e-3, 0)
    assert (lr['coc.super_layers.0.weight'], decay['coc.super_layers.0.weight']) == (1e-3, 0)
    off = build(Net(), operator_rules=False)
    assert {group['weight_decay'] for group in off.optimizer.param_groups} == {0.1, 0.05}


def test_parameters_of_equal_settings_are_in_one_group_hidden_ones_first():
    groups = build(Net()).optimizer.param_groups
    assert [(group['rule'], len(group['params'])) for group in groups[:1]] == [('muon', 2)]
    assert len(groups) == 4 and {group['rule'] for group in groups[1:]} == {'AdamW'}


@pytest.mark.parametrize('constructor', ['mmkerv.ConvMuonConstructor', 'mmkerv.OperatorRulesConstructor'])
def test_around_layer_decay_the_operators_factors_apply_once(constructor):
    from mmkerv.models import UniRepLKNet

    model = nn.ModuleDict({'backbone': UniRepLKNet('A'), 'head': nn.Sequential(DCLSConv2d(4, 4, 3))})
    rules = dict(constructor='mmkerv.LayerDecayConstructor', layer_decay_rate=0.8)
    if constructor == 'mmkerv.ConvMuonConstructor':
        wrapper = build(model, **rules)
    else:
        cfg = dict(constructor=constructor, optimizer=dict(type='AdamW', lr=1e-3), paramwise_cfg=rules)
        wrapper = build_optim_wrapper(model, Config(cfg)._cfg_dict)
    lr = settings(wrapper, model, 'lr')
    assert lr['head.0.positions'] == pytest.approx(5e-3)
    stem = min(rate for name, rate in lr.items() if name.startswith('backbone.downsample_layers.0'))
    assert stem == pytest.approx(1e-3 * 0.8**13)


def test_names_of_the_config_take_precedence():
    model = Net()
    assert hidden(model) == {'coc.weight', 'dcls.weight'}
    assert hidden(model, rest_names=['dcls']) == {'coc.weight'}
    assert hidden(model, muon_names=r'(stem|last)\.weight$') == {
        'stem.weight',
        'coc.weight',
        'dcls.weight',
        'last.weight',
    }


def test_the_log_counts_and_names(monkeypatch):
    lines = []
    monkeypatch.setattr(conv_muon_constructor, 'log', lambda text, level=logging.INFO: lines.append((level, text)))
    build(Net())
    levels = [level for level, _ in lines]
    assert levels == [logging.INFO, *[logging.DEBUG] * len(list(Net().parameters()))]
    assert lines[0][1] == (
        'mmkerv: ConvMuon orthogonalises the updates of 2 weights, 288 of 723 parameters; AdamW for 10 others '
        "(norms, biases and other vectors: 6, operators' own: 2, last layers: 1, stem: 1)"
    )
    assert any(text == 'mmkerv: stem.weight: AdamW, lr=0.001, weight_decay=0.05 (stem)' for _, text in lines)
    assert any(text == 'mmkerv: coc.weight: muon, lr=0.02, weight_decay=0.1' for _, text in lines)


@pytest.mark.parametrize(('rules', 'end'), [({}, '; 5 in the optimizer are frozen'), (dict(bias_lr_mult=2.0), '')])
def test_the_log_counts_no_frozen_parameters(monkeypatch, rules, end):
    lines = []
    monkeypatch.setattr(conv_muon_constructor, 'log', lambda text, level=logging.INFO: lines.append(text))
    model = Net()
    for layer in (model.stem, model.coc):
        layer.requires_grad_(False)
    build(model, **rules)
    assert lines[0] == (
        'mmkerv: ConvMuon orthogonalises the updates of 1 weights, 144 of 454 parameters; AdamW for 6 others '
        f"(norms, biases and other vectors: 4, last layers: 1, operators' own: 1){end}"
    )
    assert len(lines) == 8 and not any('stem' in line or 'coc' in line for line in lines)


@pytest.mark.parametrize(
    ('muon', 'rules', 'message'),
    [
        ({}, dict(rest=None), r"paramwise_cfg\.rest must have the type and lr .* got None; write .*dict\(type='AdamW'"),
        ({}, dict(rest=dict(type='AdamW')), r'rest must have the type and lr'),
        ({}, dict(rest=dict(type='Adam', lr=1.0)), r"rest\.type must be one of 'AdamW', 'SGD', got 'Adam'"),
        ({}, dict(rest=dict(type='AdamW', lr=-1.0)), r'rest: AdamW refuses .*lr.*-1\.0'),
        ({}, dict(rest=dict(type='SGD', lr=1.0, momentun=0.9)), r'rest: SGD refuses .*momentun'),
        ({}, dict(rest_names=['norm', 'nothing']), r"rest_names: 'nothing' matches no parameter"),
        ({}, dict(rest_names=3), r'rest_names must be regular expressions, got 3'),
        ({}, dict(muon_names=['(']), r"muon_names must be regular expressions, got \['\('\]"),
        ({}, dict(muon_names=['stem']), r"muon_names: 'stem' matches stem\.bias of shape \(4,\)"),
        ({}, dict(custom_keys=dict(norm=dict(betas=(0, 0)))), r"custom_keys\['norm'\] has 'betas'; with mmkerv"),
        ({}, dict(rest_names=['coc', 'dcls']), r'has no hidden weight to orthogonalise \(.*stem: 1.*muon_names'),
    ],
    ids=[f'rule{number}' for number in range(11)],
)
def test_a_bad_config_is_named(muon, rules, message):
    with pytest.raises(ConfigError, match=message):
        build(Net(), muon, **rules)


def test_a_bad_optimizer_is_named():
    with pytest.raises(TypeError, match="has no argument 'momentun'; did you mean 'momentum'"):
        build(Net(), dict(momentun=0.9))
    with pytest.raises(TypeError, match="has no argument 'groups'"):
        build(Net(), dict(groups=2))
    cfg = dict(constructor='mmkerv.ConvMuonConstructor', optimizer=dict(type='SGD', lr=1.0))
    with pytest.raises(ConfigError, match=r"needs optim_wrapper\.optimizer=dict\(type='mmkerv\.ConvMuon'"):
        build_optim_wrapper(Net(), {**cfg, 'paramwise_cfg': dict(rest=REST)})
    # Without the constructor the first vector is named.
    with pytest.raises(ValueError, match=r'mmkerv\.ConvMuonConstructor'):
        build_optim_wrapper(Net(), dict(optimizer=dict(type='mmkerv.ConvMuon', lr=0.1)))


def test_the_train_tool_leaves_it_alone_and_the_deploy_config_drops_it():
    network = dict(backbone=dict(type='ResNet', conv_cfg=dict(type='CoCConv')))
    cfg = Config(dict(optim_wrapper=copy.deepcopy(WRAPPER), model=network))
    add_operator_rules(cfg)
    assert cfg.optim_wrapper.to_dict() == WRAPPER
    found = deploy_config(cfg).optim_wrapper.to_dict()
    assert found == dict(
        optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05),
        paramwise_cfg=dict(norm_decay_mult=0.0),
        clip_grad=dict(max_norm=1.0),
    )
    cfg.optim_wrapper.paramwise_cfg.update(constructor='mmkerv.LayerDecayConstructor', layer_decay_rate=0.8)
    assert deploy_config(cfg).optim_wrapper.to_dict() == found


SCHEDULERS = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2),
    # The end is by default that of the run, here of the interrupted one.
    dict(type='MultiStepLR', by_epoch=True, milestones=[2, 3], gamma=0.1, end=4),
]


def run(folder, epochs, resume=False, **changes):
    wrapper = {**copy.deepcopy(WRAPPER), **changes}
    settings = dict(optim_wrapper=wrapper, param_scheduler=copy.deepcopy(SCHEDULERS), resume=resume)
    train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=1)
    runner = tiny_runner(folder, HiddenModel(), train_cfg=train_cfg, **settings)
    runner.train()
    return runner


@pytest.mark.parametrize('amp', [False, True], ids=['float32', 'amp'])
def test_a_run_trains_and_resumes_with_the_same_bits(tmp_path, amp):
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    if amp:
        use_amp(cfg)
    changes = dict(cfg.optim_wrapper)
    whole = run(tmp_path / 'whole', 4, **changes)
    run(tmp_path / 'parts', 2, **changes)
    resumed = run(tmp_path / 'parts', 4, resume=True, **changes)
    assert isinstance(resumed.optim_wrapper.optimizer, ConvMuon) and resumed.epoch == 4
    start = HiddenModel().state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert name.endswith('num_batches_tracked') or not torch.equal(value.cpu(), start[name]), name
    # Every group has gone through both schedulers.
    for group in whole.optim_wrapper.optimizer.param_groups:
        assert group['lr'] == pytest.approx(0.01 * group['initial_lr'])
    assert {group['initial_lr'] for group in whole.optim_wrapper.optimizer.param_groups} == {0.02, 0.01}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_scaled_loss_on_a_gpu(tmp_path):
    """float16 with a loss scale: the gradients are unscaled before they are orthogonalised."""
    runner = run(tmp_path, 2, type='AmpOptimWrapper', loss_scale='dynamic')
    assert all(p.isfinite().all() for p in runner.model.parameters())


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    mp.start_processes(worker, args=(free_port(), str(tmp_path)), nprocs=2, start_method='spawn')
    model = plain_model()
    train(model, build_optim_wrapper(model, WRAPPER), slice(0, 4))
    expected = model.state_dict()
    start = plain_model().state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / f'{rank}.pth', weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, atol=1e-9, rtol=1e-9, msg=lambda text, n=name: f'{n}: {text}'
            )
    assert not torch.equal(expected['net.4.weight'], start['net.4.weight'])
