"""What became of the convolutions of a network, whatever road led there."""

import copy
import gc

import pytest
import torchvision
from torch import nn

import mmkerv
from mmkerv.models.inventory import NOT_REACHED, inventory
from mmkerv.ops import CKConv2d, CoCConv2d, FDConv, KervConv, KervConv1d, LowRankConv2d
from mmkerv.ops.core.starting_point import AS_PLAIN, AT_RANDOM, starting_point
from tests.ops.catalogue import VARIANTS, layer


def kept(model):
    return {name: reason for name, (_, reason) in inventory(model).kept.items()}


@pytest.mark.parametrize('label', VARIANTS)
def test_what_an_operator_is_made_of_is_a_part_of_it(label):
    operator = layer(label)
    found = inventory(nn.Sequential(operator, nn.Linear(2, 2)))
    assert found.operators == {'0': operator} and not found.kept
    assert (starting_point(operator) == AS_PLAIN) == operator.starts_as_identity
    assert str(found).startswith('1 of 1 convolutions -> ') and str(found).endswith('; kept none')


def test_reasons():
    class Standardised(nn.Conv2d):
        pass

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.offset_conv = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 18, 3)
            self.deform_conv = torchvision.ops.DeformConv2d(8, 8, 3)

    model = nn.Sequential(CoCConv2d(3, 8, 3), nn.Conv2d(8, 8, 1), Standardised(8, 8, 3), Head(), nn.Conv2d(8, 2, 3))
    assert kept(model) == {
        '1': '1x1',
        '2': 'of class Standardised',
        '3.conv': NOT_REACHED,
        '3.offset_conv': 'inside Head',
        '4': NOT_REACHED,
    }
    assert str(inventory(model)) == (
        '1 of 6 convolutions -> CoCConv (3x3: 1); kept 1 1x1, 1 of class Standardised, 2 without conv_cfg (3.conv, 4), '
        '1 inside Head'
    )


def test_1x1_is_a_reason_only_where_the_operator_does_not_take_it():
    assert kept(nn.Sequential(KervConv(3, 8, 3), nn.Conv2d(8, 8, 1))) == {'1': NOT_REACHED}
    narrow = nn.Sequential(FDConv(32, 32, 3), FDConv(32, 8, 3), nn.Conv2d(32, 32, 3))
    assert kept(narrow) == {'1': 'that FDConv leaves plain', '2': NOT_REACHED}
    # What one of two operators takes was not left out for its size.
    assert kept(nn.Sequential(CoCConv2d(3, 8, 3), KervConv(8, 8, 3), nn.Conv2d(8, 8, 1))) == {'2': NOT_REACHED}


def test_a_conversion_knows_what_it_left_out():
    model = torchvision.models.resnet18(num_classes=2)
    model.layer4.append(nn.Conv2d(512, 512, 2))
    mmkerv.convert(model, {'type': 'CoCConv'}, {'stages': (1, 4)})
    text = str(inventory(model))
    assert text == (
        '9 of 21 convolutions -> CoCConv (7x7: 1, 3x3: 8); kept 8 left out by where, 3 1x1, 1 of even size (2x2)'
    )
    # A part that no conversion has seen.
    whole = nn.ModuleDict({'backbone': model, 'head': nn.Conv2d(512, 2, 3)})
    assert str(inventory(whole)) == (
        '9 of 22 convolutions -> CoCConv (backbone 9); kept 8 left out by where, 3 1x1, 1 of even size (2x2), '
        '1 without conv_cfg (head)'
    )


def test_hooks_of_the_run_are_no_reason_but_those_of_a_conversion_are():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].register_forward_hook(lambda *args: None)
    mmkerv.convert(model, {'type': 'CoCConv'}, {'names': '[01]'})
    model[2].register_forward_hook(lambda *args: None)
    assert kept(model) == {'1': 'with hooks', '2': 'left out by where'}


def test_several_operators_dimensions_and_shared_layers():
    shared = CoCConv2d(8, 8, 3)
    found = inventory(nn.Sequential(shared, shared, CKConv2d(8, 8, 5), nn.Conv2d(8, 8, 3), nn.Conv1d(8, 8, 3)))
    assert str(found) == ('2 of 3 convolutions -> 1 CKConv (5x5: 1), 1 CoCConv (3x3: 1); kept 1 without conv_cfg (3)')
    assert found.starts() == {'CKConv': AT_RANDOM, 'CoCConv': AS_PLAIN}
    assert kept(nn.Sequential(KervConv1d(8, 8, 3), nn.Conv1d(8, 8, 3), nn.Conv2d(8, 8, 3))) == {'1': NOT_REACHED}
    mixed = inventory(nn.Sequential(CoCConv2d(8, 8, 3), CoCConv2d(8, 8, 3, super_init='kaiming')))
    assert mixed.starts() == {
        'CoCConv': "1 as the plain convolution, 1 with the plain layer's weight, but not as the plain convolution"
    }
    assert 'unless it decomposes' in starting_point(LowRankConv2d(8, 8, 3))


def test_networks_without_operators():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 8, 2))
    assert str(inventory(model)) == 'no operators; 2 plain convolutions (3x3: 1, 1x1: 1)'
    assert str(inventory(nn.Linear(2, 2))) == 'no convolutions'


def test_adapters_are_counted_and_no_reason():
    model = nn.Sequential(CoCConv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1))
    mmkerv.add_orthogonal_adapters(model, kind='oft', block_size=4)
    text = str(inventory(model))
    assert text.startswith('1 of 3 convolutions -> CoCConv (3x3: 1); kept 1 without conv_cfg (1), 1 1x1; orthogonal')
    assert text.endswith(' layers')


def test_the_reasons_die_with_the_network():
    from mmkerv.models import inventory as module

    gc.collect()
    before = len(module._reasons)
    model = mmkerv.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 4)), {'type': 'CoCConv'})
    assert len(module._reasons) == before + 1
    del model
    gc.collect()
    assert len(module._reasons) == before


def test_every_road_of_the_libraries():
    pytest.importorskip('mmdet')
    from mmengine.registry import MODELS, init_default_scope

    from tests.engine.small_networks import retinanet

    init_default_scope('mmdet')
    cfg = retinanet().model
    by_conv_cfg = MODELS.build(copy.deepcopy(cfg))
    text = str(inventory(by_conv_cfg))
    assert text.partition(';')[0].endswith('-> CoCConv (backbone 17, neck 5, bbox_head 4)'), text
    assert text.endswith('2 without conv_cfg (bbox_head.retina_cls, bbox_head.retina_reg)'), text
    total = sum(isinstance(m, nn.Conv2d) for m in MODELS.build(plain(copy.deepcopy(cfg))).modules())
    assert f'26 of {total} ' in text

    whole = dict(type='mmkerv.Converted', model=plain(copy.deepcopy(cfg)), conv_cfg=dict(type='CoCConv'))
    text = str(inventory(MODELS.build(whole)))
    assert text.startswith(f'28 of {total} convolutions -> CoCConv (backbone 17, neck 5, bbox_head 6)'), text
    assert 'without conv_cfg' not in text

    placed = plain(copy.deepcopy(cfg))
    placed.backbone.update(type='mmkerv.ResNet', conv_cfg=dict(type='CoCConv'), where=dict(stem=False, stages=(4,)))
    placed.backbone.plugins = [
        dict(cfg=dict(type='mmkerv.LSKBlock'), stages=(False, True, False, False), position='after_conv2')
    ]
    if placed.backbone.depth < 50:
        placed.backbone.depth = 50
        placed.neck.in_channels = [4 * c for c in placed.neck.in_channels]
    text = str(inventory(MODELS.build(placed)))
    assert 'convolutions -> CoCConv (backbone 3); kept' in text and text.endswith('; 4 LSKBlock'), text
    assert ' left out by where' in text and ' inside LSKBlock' in text and ' without conv_cfg (neck.' in text, text


def plain(cfg):
    for part in cfg.values():
        if isinstance(part, dict):
            part.pop('conv_cfg', None)
    return cfg
