"""Conversion of plain checkpoints between families, libraries and tasks."""

import pytest
import torch
import torchvision

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('mmpretrain')

from mmengine.config import Config

from mmkerv.errors import CheckpointMismatchError
from tests.engine.checkpoint.plain_networks import (
    COC,
    assert_refused,
    assert_same,
    converted,
    logits,
    plain,
    shaken,
    small,
)
from tests.engine.small_networks import neck, operators, retinanet, segmentor


def of_mmpretrain(backbone, channels, hidden=None):
    head = dict(type='LinearClsHead', num_classes=6, in_channels=channels)
    if hidden:
        head |= dict(type='StackedLinearClsHead', mid_channels=[hidden], act_cfg=dict(type='HSwish'))
    backbone = dict(conv_cfg=COC, **backbone)
    model = dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
    return Config(dict(default_scope='mmpretrain', model=model))


FAMILIES = {
    'mobilenet_v2': lambda: of_mmpretrain(dict(type='mmkerv.MobileNetV2'), 1280),
    'mobilenet_v3_small': lambda: of_mmpretrain(dict(type='mmkerv.MobileNetV3', arch='small'), 576, 1024),
    'mobilenet_v3_large': lambda: of_mmpretrain(dict(type='mmkerv.MobileNetV3', arch='large'), 960, 1280),
    'shufflenet_v2_x0_5': lambda: of_mmpretrain(dict(type='mmkerv.ShuffleNetV2', widen_factor=0.5), 1024),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_families_with_other_names_are_converted(tmp_path, name):
    theirs = shaken(getattr(torchvision.models, name)(num_classes=6))
    match, network = converted(tmp_path, theirs.state_dict(), FAMILIES[name]())
    assert len(match.loaded) == len(theirs.state_dict()) and not match.missing and not match.unexpected
    assert len(match.operator_only) == len(operators(network)) > 0
    assert_same(logits(network), theirs, 96)


def test_families_must_agree_layer_by_layer(tmp_path):
    theirs = torchvision.models.shufflenet_v2_x0_5(num_classes=6).state_dict()
    message = (
        r"torchvision's ShuffleNetV2 \(280 tensors\) and the backbone \(280 tensors\) do not agree layer by layer: "
        r'backbone\.stage2\.0\.branch1\.2\.weight \(24, 24, 1, 1\) was found where '
        r'backbone\.layers\.0\.0\.branch1\.1\.conv\.weight \(58, 24, 1, 1\) is expected'
    )
    assert_refused(
        tmp_path, theirs, of_mmpretrain(dict(type='mmkerv.ShuffleNetV2'), 1024), CheckpointMismatchError, message
    )


def test_mmpretrain_checkpoint_is_converted_for_a_detector(tmp_path):
    pytest.importorskip('mmdet')
    pretrained = plain(small())
    cfg = retinanet()
    cfg.model.backbone.conv_cfg = COC
    # The checkpoint that training would load first is not read.
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'absent.pth'))
    match, network = converted(tmp_path, pretrained.state_dict(), cfg)
    assert match.unexpected == ['head.fc.weight', 'head.fc.bias']
    assert match.loaded == [name for name in pretrained.state_dict() if name.startswith('backbone.')]
    assert {name.partition('.')[0] for name in match.missing} == {'neck', 'bbox_head'}
    assert 'neck.lateral_convs.0.conv.weight' in match.missing and 'bbox_head.retina_cls.bias' in match.missing
    assert len(operators(network.backbone)) == 17 and len(match.operator_only) == 17
    # The prior of the focal loss: the head is initialised as for training.
    assert torch.allclose(network.bbox_head.retina_cls.bias, torch.tensor(-4.595), atol=1e-3)
    for level in range(4):
        assert_same(lambda x, at=level: network.backbone(x)[at], lambda x, at=level: deepest(pretrained, x)[at])


def deepest(network, x):
    network.backbone.out_indices = (0, 1, 2, 3)
    return network.backbone(x)


@pytest.mark.parametrize('family', ['ResNetV1c', 'ResNetV1d'])
def test_mmpretrain_checkpoint_is_converted_for_a_segmentor(tmp_path, family):
    """The two libraries name the layers of the deep stem differently."""
    pytest.importorskip('mmseg')
    pretrained = plain(small(type=family))
    assert 'backbone.stem.2.bn.weight' in pretrained.state_dict()
    cfg = segmentor()
    for name, value in dict(type=family, conv_cfg=COC, stem_channels=8).items():
        cfg.model.backbone[name] = value
    match, network = converted(tmp_path, {'state_dict': pretrained.state_dict()}, cfg)
    assert match.unexpected == ['head.fc.weight', 'head.fc.bias']
    assert {name.partition('.')[0] for name in match.missing} == {'decode_head', 'auxiliary_head'}
    assert_same(lambda x: network.backbone(x)[-1], lambda x: deepest(pretrained, x)[-1])


def test_torchvision_checkpoint_is_converted_for_a_detector(tmp_path):
    pytest.importorskip('mmdet')
    theirs = shaken(torchvision.models.resnet18())
    cfg = retinanet()
    cfg.model.backbone.conv_cfg, cfg.model.backbone.base_channels = COC, 64
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    match, network = converted(tmp_path, theirs.state_dict(), cfg)
    assert match.unexpected == ['fc.weight', 'fc.bias'] and len(match.loaded) == 120
    assert_same(lambda x: theirs.fc(network.backbone(x)[-1].mean((2, 3))), theirs)


def test_detector_is_converted_for_other_classes(tmp_path):
    pytest.importorskip('mmdet')
    cfg = retinanet()
    for part in (cfg.model.backbone, cfg.model.neck, cfg.model.bbox_head):
        part.conv_cfg = COC
    theirs = plain(cfg)
    cfg.model.bbox_head.num_classes = 5
    match, network = converted(tmp_path, theirs.state_dict(), cfg)
    assert match.missing == match.unexpected == ['bbox_head.retina_cls.weight', 'bbox_head.retina_cls.bias']
    box = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, expected in zip(network(box)[1], theirs(box)[1]):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_neck_in_both_must_match(tmp_path):
    pytest.importorskip('mmdet')
    weights = plain(retinanet()).state_dict()
    cfg = retinanet()
    cfg.model.neck.out_channels = cfg.model.bbox_head.in_channels = 32
    message = r'neck\.lateral_convs\.0\.conv\.weight is \(16, 16, 1, 1\) in the checkpoint and \(32, 16, 1, 1\)'
    assert_refused(tmp_path, weights, cfg, CheckpointMismatchError, message)


@pytest.mark.parametrize('name', ['neck.fpn_convs.0.conv.bias', 'bbox_head.retina_reg.bias'])
def test_part_in_both_must_be_complete(tmp_path, name):
    pytest.importorskip('mmdet')
    weights = plain(retinanet()).state_dict()
    cfg = retinanet(neck=neck(start_level=1, add_extra_convs='on_input'))
    del weights[name]
    assert_refused(tmp_path, weights, cfg, CheckpointMismatchError, rf'1 missing \({name}\)')
