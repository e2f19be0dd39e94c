"""``--no-pretrained`` removes what loads weights, and what keeps them."""

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.config import Config

from mmkerv.engine.config.from_scratch import remove_pretrained

WEIGHTS = dict(type='Pretrained', checkpoint='torchvision://resnet50')


def test_detection_unfreezes():
    backbone = dict(type='ResNet', depth=50, frozen_stages=1, norm_eval=True, init_cfg=WEIGHTS)
    cfg = Config(dict(default_scope='mmdet', load_from='a.pth', model=dict(type='RetinaNet', backbone=backbone)))
    assert remove_pretrained(cfg) == [
        'load_from a.pth removed',
        'model.backbone.init_cfg torchvision://resnet50 removed',
        'model.backbone.frozen_stages 1 -> -1',
        'model.backbone.norm_eval True -> False',
    ]
    assert cfg.model.backbone == dict(type='ResNet', depth=50, frozen_stages=-1, norm_eval=False, init_cfg=None)
    assert cfg.load_from is None


def test_defaults_of_the_class_count():
    # ResNetV1d hands the arguments on to mmdetection's ResNet, whose statistics are frozen by default.
    cfg = Config(dict(default_scope='mmdet', model=dict(backbone=dict(type='ResNetV1d', depth=50, init_cfg=WEIGHTS))))
    assert remove_pretrained(cfg)[1:] == ['model.backbone.norm_eval True -> False']
    cfg = Config(dict(default_scope='mmseg', model=dict(backbone=dict(type='ResNetV1c', depth=50, init_cfg=WEIGHTS))))
    assert len(remove_pretrained(cfg)) == 1 and 'norm_eval' not in cfg.model.backbone


def test_segmentors_hand_it_on():
    backbone = dict(type='ResNetV1c', depth=50, norm_eval=True)
    cfg = Config(
        dict(default_scope='mmseg', model=dict(type='E', pretrained='open-mmlab://resnet50', backbone=backbone))
    )
    assert remove_pretrained(cfg)[1:] == ['model.backbone.norm_eval True -> False']
    assert cfg.model.pretrained is None


def test_inside_converted_models_and_lists_of_initialisers():
    kaiming = dict(type='Kaiming', layer='Conv2d')
    inner = dict(type='A', backbone=dict(type='ResNet', init_cfg=[kaiming, WEIGHTS], frozen_stages=0))
    cfg = Config(dict(default_scope='mmdet', model=dict(type='mmkerv.Converted', model=inner)))
    assert 'model.model.backbone.frozen_stages 0 -> -1' in remove_pretrained(cfg)
    assert cfg.model.model.backbone.init_cfg == [kaiming]
    cfg = Config(dict(default_scope='mmdet', model=dict(type='mmkerv.TimmBackbone', pretrained=True)))
    assert remove_pretrained(cfg) == ['model.pretrained True removed'] and cfg.model.pretrained is False


def test_frozen_layers_without_weights_are_left_alone():
    backbone = dict(type='ResNet', depth=50, frozen_stages=1, init_cfg=dict(type='Kaiming', layer='Conv2d'))
    cfg = Config(dict(default_scope='mmdet', model=dict(backbone=backbone)))
    assert remove_pretrained(cfg) == [] and cfg.model.backbone.frozen_stages == 1
