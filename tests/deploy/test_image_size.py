"""Sizes of images from test pipelines."""

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmkerv.deploy.fold import likely_shapes
from mmkerv.deploy.image_size import pipeline_shape
from mmkerv.deploy.trained_model import built, load_trained
from mmkerv.errors import ConfigError
from tests.engine.small_networks import SIZE, segmentor

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')
KEEP_RATIO = [LOAD, dict(type='Resize', scale=(133, 80), keep_ratio=True), dict(type='PackDetInputs')]
EDGE = [LOAD, dict(type='ResizeEdge', scale=48, edge='short'), dict(type='CenterCrop', crop_size=40), PACK]
NESTED = [LOAD, dict(type='RandomChoice', transforms=[[dict(type='Resize', scale=(48, 32))]]), PACK]


@pytest.mark.parametrize(
    ('config', 'pipeline', 'shape'),
    [
        ('demo/retinanet_shapes', None, (160, 160)),
        # The preprocessor pads to multiples of 32.
        ('demo/retinanet_shapes', KEEP_RATIO, (96, 160)),
        ('demo/fcn_shapes', None, (96, 96)),
        ('demo/resnet18_shapes', None, (64, 64)),
        ('demo/resnet18_shapes', EDGE, (40, 40)),
        ('demo/resnet18_shapes', NESTED, (32, 48)),
        # The images are in memory, and the pipeline of the training crops them.
        ('cifar/resnet32_cifar10plus', None, (32, 32)),
    ],
)
def test_sizes_are_those_of_the_pipeline(config, pipeline, shape):
    options = {'test_dataloader.dataset.pipeline': pipeline} if pipeline else {}
    cfg, model = load_trained(f'configs/{config}.py', None, options)
    assert pipeline_shape(cfg, model) == shape
    assert likely_shapes(cfg, model)[0] == shape


def test_unknown_sizes_are_refused():
    cfg, model = load_trained('configs/mnist/lenet5.py', None)
    with pytest.raises(ConfigError, match='name a size: give --shape H W'):
        pipeline_shape(cfg, model)
    needy = [dict(type='Resize', scale=(8, 8)), dict(type='PackInputs', input_key='other')]
    cfg, model = load_trained('configs/mnist/lenet5.py', None, {'test_dataloader.dataset.pipeline': needy})
    with pytest.raises(ConfigError, match=r'cannot be run on an image alone .*: give --shape H W'):
        pipeline_shape(cfg, model)


def test_a_config_without_data_has_the_usual_sizes():
    cfg = segmentor()
    assert likely_shapes(cfg, built(cfg)) == [(256, 256), SIZE]
