"""Convolutions inside layers that are kept: offsets of deformable layers, attention in plugins."""

import pytest
import torch
import torchvision
from torch import nn

import mmkerv
from mmkerv.models.kept_layers import kept_by
from mmkerv.models.placement import Where, selected
from mmkerv.ops.core.base import Conv2d

OPERATORS = [
    {'type': 'CoCConv'},
    {'type': 'CKConv'},
    {'type': 'KervConv'},
]
ALL = {'kernel_sizes': 'all'}


def plain(model):
    return [name for name, m in model.named_modules() if type(m) is nn.Conv2d]


class Deformed(nn.Module):
    """What users of torchvision write: an offset convolution beside a deformable one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.offset_conv = nn.Conv2d(4, 18, 3, padding=1)
        nn.init.zeros_(self.offset_conv.weight)
        nn.init.zeros_(self.offset_conv.bias)
        self.deform_conv = torchvision.ops.DeformConv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return self.deform_conv(x, self.offset_conv(x))


class Switched(nn.Conv2d):
    """A convolution of its own class that holds convolutions, as mmcv's SAConv2d does."""

    def __init__(self):
        super().__init__(4, 4, 3)
        self.switch = nn.Sequential(nn.Conv2d(4, 1, 3))


@pytest.mark.parametrize('conv_cfg', OPERATORS, ids=lambda c: c['type'])
def test_the_offsets_of_a_deformable_layer_stay_zero(conv_cfg):
    model = mmkerv.convert(Deformed(), conv_cfg)
    assert plain(model) == ['offset_conv'] and isinstance(model.conv, Conv2d)
    assert not model.offset_conv(torch.randn(1, 4, 5, 5)).any()


def test_a_convolution_inside_a_convolution_of_another_class_is_kept():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), Switched())
    assert plain(mmkerv.convert(model, OPERATORS[0])) == ['1.switch.0']
    assert kept_by(model) == {model[1].switch[0]: '1'}


@pytest.mark.parametrize(
    ('names', 'left'),
    [
        ('switch', ['0']),
        (r'^1\.switch', ['0']),
        # These also name the layer that is kept, not just its part.
        ('.*', ['1.switch.0']),
        (r'^(0|1)', ['1.switch.0']),
    ],
)
def test_where_names_selects_a_part_by_its_own_name(names, left):
    model = nn.Sequential(nn.Conv2d(4, 4, 3), Switched())
    assert plain(mmkerv.convert(model, OPERATORS[0], {'names': names})) == left


def test_a_rule_that_selects_only_parts_says_so():
    with pytest.raises(ValueError, match=r"selects only .*parts of layers that are kept \(3x3: 1, such as one of '0'"):
        mmkerv.convert(nn.Sequential(Switched()), OPERATORS[0])


def test_a_loss_on_kernels_leaves_the_offsets_out():
    assert list(selected(Deformed(), None, (nn.Conv2d,))) == ['conv']
    assert list(selected(Deformed(), Where(names=('offset',)), (nn.Conv2d,))) == ['offset_conv']


@pytest.mark.parametrize(
    ('module', 'kind'),
    [
        ('cbam', 'CbamModule'),
        ('cbam', 'LightCbamModule'),
        ('non_local_attn', 'NonLocalAttn'),
        ('non_local_attn', 'BatNonLocalAttn'),
        ('global_context', 'GlobalContext'),
        ('bottleneck_attn', 'BottleneckAttn'),
    ],
)
def test_the_attention_of_timm_is_kept(module, kind):
    layers = pytest.importorskip(f'timm.layers.{module}')
    options = {'feat_size': (8, 8)} if kind == 'BottleneckAttn' else {}
    model = nn.Sequential(nn.Conv2d(4, 64, 3), getattr(layers, kind)(64, **options))
    left = plain(model)[1:]
    assert left
    assert plain(mmkerv.convert(model, {'type': 'KervConv'}, ALL)) == left


def deformable_packs():
    ops = pytest.importorskip('mmcv.ops')
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1),
        ops.DeformConv2dPack(4, 4, 3, padding=1),
        ops.ModulatedDeformConv2dPack(4, 4, 3, padding=1),
    )


@pytest.mark.parametrize('conv_cfg', OPERATORS, ids=lambda c: c['type'])
def test_the_offsets_of_mmcvs_deformable_layers_learn_at_their_own_rate(conv_cfg):
    model = deformable_packs()
    mmkerv.convert(model, conv_cfg, ALL)
    assert plain(model) == ['1.conv_offset', '2.conv_offset']
    assert not any(model[i].conv_offset(torch.randn(1, 4, 5, 5)).any() for i in (1, 2))

    from mmengine.optim import DefaultOptimWrapperConstructor

    constructor = DefaultOptimWrapperConstructor(
        {'optimizer': {'type': 'SGD', 'lr': 1.0}}, paramwise_cfg={'dcn_offset_lr_mult': 0.1}
    )
    rates = {id(g['params'][0]): g['lr'] for g in constructor(model).optimizer.param_groups}
    for i in (1, 2):
        assert rates[id(model[i].conv_offset.weight)] == 0.1


def test_switchable_atrous_and_carafe_layers_are_kept():
    ops = pytest.importorskip('mmcv.ops')
    model = nn.Sequential(nn.Conv2d(4, 8, 3), ops.SAConv2d(8, 8, 3), ops.CARAFEPack(8, 2))
    left = plain(model)[1:]
    assert {name.split('.')[0] for name in left} == {'1', '2'}
    assert plain(mmkerv.convert(model, {'type': 'KervConv'}, ALL)) == left


@pytest.mark.parametrize('kind', ['NonLocal2d', 'ContextBlock', 'GeneralizedAttention'])
def test_the_attention_in_mmcvs_plugins_is_kept(kind):
    cnn = pytest.importorskip('mmcv.cnn')
    options = {
        'ContextBlock': {'ratio': 0.25},
        'NonLocal2d': {'reduction': 2},
        'GeneralizedAttention': {'num_heads': 2},
    }
    plugin = getattr(cnn, kind)(16, **options[kind])
    model = nn.Sequential(nn.Conv2d(4, 16, 3), plugin)
    left = plain(plugin)
    assert len(left) > 1
    mmkerv.convert(model, {'type': 'KervConv'}, ALL)
    assert plain(model) == [f'1.{name}' for name in left]


@pytest.mark.parametrize(
    ('module', 'kind', 'args', 'left'),
    [
        ('guided_anchor_head', 'FeatureAdaption', {'in_channels': 8, 'out_channels': 8}, 'conv_offset'),
        ('fovea_head', 'FeatureAlign', {'in_channels': 8, 'out_channels': 8}, 'conv_offset'),
    ],
)
def test_mmdets_offset_predictors_beside_deformable_layers_are_kept(module, kind, args, left):
    pytest.importorskip('mmdet')
    from importlib import import_module

    layer = getattr(import_module(f'mmdet.models.dense_heads.{module}'), kind)(**args)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), layer)
    assert plain(mmkerv.convert(model, {'type': 'KervConv'}, ALL)) == [f'1.{left}']


def test_mmdets_dynamic_head_keeps_its_offsets():
    pytest.importorskip('mmdet')
    from mmdet.models.necks.dyhead import DyHeadBlock

    model = mmkerv.convert(DyHeadBlock(16, 16), {'type': 'KervConv'}, ALL)
    assert 'spatial_conv_offset' in plain(model) and 'scale_attn_module.1' not in plain(model)


def test_tood_keeps_the_convolutions_that_move_its_sampling_points():
    pytest.importorskip('mmdet')
    from mmdet.models.dense_heads import TOODHead
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')

    head = TOODHead(
        num_classes=3,
        in_channels=8,
        feat_channels=16,
        stacked_convs=1,
        anchor_type='anchor_free',
        norm_cfg={'type': 'GN', 'num_groups': 4},
        anchor_generator={
            'type': 'AnchorGenerator', 'ratios': [1.0], 'octave_base_scale': 8, 'scales_per_octave': 1,
            'strides': [8, 16],
        },
        loss_cls={'type': 'mmdet.QualityFocalLoss', 'beta': 2.0},
        loss_bbox={'type': 'mmdet.GIoULoss'},
        initial_loss_cls={'type': 'mmdet.FocalLoss'},
    )  # fmt: skip
    assert plain(mmkerv.convert(head, {'type': 'KervConv'}, ALL)) == ['reg_offset_module.0', 'reg_offset_module.2']
