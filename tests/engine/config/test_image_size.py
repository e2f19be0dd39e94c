"""``--img-size`` scales everything that has a size in pixels, once, by one factor."""

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config

from mmkerv.engine.config.image_size import set_image_size
from mmkerv.errors import ConfigError

LOAD = dict(type='LoadImageFromFile')


def config(train, test=None, **rest):
    loaders = {f'{phase}_dataloader': dict(dataset=dict(type='A', pipeline=test or train)) for phase in ('val', 'test')}
    return Config(dict(train_dataloader=dict(dataset=dict(type='A', pipeline=train)), **loaders, **rest))


def pipeline(cfg, phase='train'):
    return cfg[f'{phase}_dataloader'].dataset.pipeline


def test_detection():
    cfg = config([LOAD, dict(type='Resize', scale=(1333, 800), keep_ratio=True)])
    assert len(set_image_size(cfg, 640)) == 3
    assert [pipeline(cfg, phase)[1].scale for phase in ('train', 'val', 'test')] == [(640, 384)] * 3


def test_segmentation():
    train = [
        *(LOAD, dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True)),
        dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    ]
    model = dict(
        data_preprocessor=dict(size=(512, 512)), test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    )
    cfg = config(train, [LOAD, dict(type='Resize', scale=(2048, 512))], model=model)
    set_image_size(cfg, 128)
    assert pipeline(cfg)[1].scale == (512, 128) and pipeline(cfg)[1].ratio_range == (0.5, 2.0)
    assert pipeline(cfg)[2].crop_size == (128, 128) and pipeline(cfg, 'val')[1].scale == (512, 128)
    assert cfg.model.data_preprocessor.size == (128, 128)
    assert cfg.model.test_cfg.crop_size == (128, 128) and cfg.model.test_cfg.stride == (85, 85)


def test_classification():
    train = [LOAD, dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0))]
    test = [LOAD, dict(type='ResizeEdge', scale=256, edge='short'), dict(type='CenterCrop', crop_size=224)]
    backbone = dict(type='VisionTransformer', img_size=224, patch_size=16)
    cfg = config(train, test, model=dict(backbone=backbone))
    set_image_size(cfg, 112)
    assert pipeline(cfg)[1] == dict(type='RandomResizedCrop', scale=112, crop_ratio_range=(0.08, 1.0))
    assert pipeline(cfg, 'val')[1].scale == 128 and pipeline(cfg, 'val')[2].crop_size == 112
    assert cfg.model.backbone == dict(type='VisionTransformer', img_size=112, patch_size=16)


def test_nested_transforms_and_drawn_crops():
    choice = dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=[(480, 1333), (800, 1333)])],
            [dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600))],
            [dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.5, 1))],
        ],
    )
    cfg = config([LOAD, choice], [LOAD, dict(type='Resize', scale=(1333, 800))])
    set_image_size(cfg, 1000)
    (resize,), (crop,), (share,) = pipeline(cfg)[1].transforms
    assert resize.scales == [(360, 1000), (600, 1000)] and crop.crop_size == (288, 450) and share.crop_size == (0.5, 1)


def test_mosaic_and_switched_pipelines():
    inner = dict(type='CocoDataset', pipeline=[LOAD])
    outer = [
        dict(type='Mosaic', img_scale=(640, 640)),
        dict(type='RandomAffine', scaling_ratio_range=(0.1, 2), border=(-320, -320)),
    ]
    later = [dict(type='Resize', scale=(640, 640)), dict(type='Pad', size=(640, 640))]
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(type='MultiImageMixDataset', dataset=inner, pipeline=outer)),
            val_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=[LOAD, *later])),
            custom_hooks=[dict(type='PipelineSwitchHook', switch_pipeline=later)],
            model=dict(data_preprocessor=dict(batch_augments=[dict(type='B', random_size_range=(480, 800))])),
        )
    )
    set_image_size(cfg, 320)
    assert cfg.train_dataloader.dataset.pipeline[0].img_scale == (320, 320)
    affine = cfg.train_dataloader.dataset.pipeline[1]
    assert affine.scaling_ratio_range == (0.1, 2) and affine.border == (-160, -160)
    assert cfg.custom_hooks[0].switch_pipeline[1].size == (320, 320)
    assert cfg.model.data_preprocessor.batch_augments[0].random_size_range == (240, 400)


def test_a_pipeline_that_is_used_twice_is_scaled_once():
    cfg = config([LOAD, dict(type='Resize', scale=(64, 64))])
    cfg.test_dataloader = cfg.val_dataloader
    cfg.custom_hooks = [dict(type='A', switch_pipeline=pipeline(cfg))]
    set_image_size(cfg, 32)
    assert pipeline(cfg, 'test')[1].scale == (32, 32) and pipeline(cfg)[1].scale == (32, 32)


def test_the_size_it_has_changes_nothing():
    assert set_image_size(config([LOAD, dict(type='Resize', scale=(64, 48))]), 64) == []


def test_images_that_keep_their_size_are_refused():
    with pytest.raises(ConfigError, match=r'train_dataloader\.dataset\.pipeline does not resize'):
        set_image_size(config([LOAD, dict(type='RandomCrop', crop_size=32, padding=4)]), 16)
    with pytest.raises(ConfigError, match='no pipeline of the config has a size'):
        set_image_size(config([LOAD, dict(type='Resize', scale_factor=0.5)]), 16)
