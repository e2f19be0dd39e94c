import pytest

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmkerv.deploy.trained_model import (
    build_model,
    built,
    dataset_meta,
    image_steps,
    load_image,
    load_trained,
    read_image,
)
from mmkerv.errors import ConfigError


@pytest.fixture(scope='module')
def lenet(tmp_path_factory) -> tuple[str, str]:
    pytest.importorskip('mmpretrain')
    config = 'configs/mnist/lenet5_kerv.py'
    cfg = Config.fromfile(config)
    init_default_scope('mmpretrain')
    path = tmp_path_factory.mktemp('trained') / 'lenet.pth'
    torch.save(MODELS.build(cfg.model).state_dict(), path)
    return config, str(path)


def test_an_image_passes_the_test_pipeline_and_the_preprocessor(lenet, tmp_path):
    import mmcv

    cfg, model = load_trained(*lenet)
    picture = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    mmcv.imwrite(picture, str(tmp_path / '0.png'))
    inputs = load_image(model, cfg, tmp_path / '0.png')['inputs']
    expected = model.data_preprocessor({'inputs': torch.from_numpy(picture)[None, None]}, False)['inputs']
    torch.testing.assert_close(inputs, expected)


def test_images_of_cifar_are_read_in_the_order_of_its_data(tmp_path):
    """CIFAR's images are RGB in memory, and its preprocessor leaves the order as it is."""
    import mmcv

    from mmkerv.visualization.pictures import input_picture

    cfg, model = load_trained('configs/cifar/resnet32_cifar10plus.py', None)
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    mmcv.imwrite(red[..., ::-1], str(tmp_path / 'red.png'))
    data = load_image(model, cfg, tmp_path / 'red.png')
    in_memory = model.data_preprocessor({'inputs': torch.from_numpy(red).permute(2, 0, 1)[None]}, False)['inputs']
    torch.testing.assert_close(data['inputs'], in_memory)
    np.testing.assert_array_equal(input_picture(model, data['inputs'], data['data_samples'][0]), red)


@pytest.mark.parametrize('type_', ['LoadAnnotations', 'LoadPanopticAnnotations', 'LoadDepthAnnotation'])
def test_steps_that_load_annotations_are_left_out(type_):
    steps = [dict(type='LoadImageFromFile'), dict(type=type_), dict(type='PackInputs')]
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=steps))))
    assert [step['type'] for step in image_steps(cfg, torch.nn.Conv2d(3, 4, 3))] == ['LoadImageFromFile', 'PackInputs']


def test_colours_belong_to_the_classes(tmp_path):
    data = dict(metainfo=dict(classes=('a', 'b'), palette=[(1, 1, 1), (2, 2, 2)]))
    cfg = Config(dict(test_dataloader=dict(dataset=data)))
    assert dataset_meta(cfg) == {'classes': ['a', 'b'], 'palette': [(1, 1, 1), (2, 2, 2)]}
    for classes, palette in ((('a', 'b'), True), (('c', 'd'), False)):
        torch.save({'state_dict': {}, 'meta': {'dataset_meta': {'classes': classes}}}, tmp_path / 'net.pth')
        assert ('palette' in dataset_meta(cfg, tmp_path / 'net.pth')) is palette
    assert dataset_meta(Config()) == {}


def test_a_file_that_is_not_an_image_is_refused(lenet, tmp_path):
    cfg, model = load_trained(*lenet)
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(ConfigError, match='cannot be read as an image'):
        load_image(model, cfg, tmp_path / 'text.png')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        load_image(model, cfg, tmp_path / 'absent.png')


def test_a_missing_device_is_refused(lenet):
    with pytest.raises(ConfigError, match="--device 'cuda:7' cannot be used here"):
        load_trained(*lenet, device='cuda:7')


def test_the_preprocessor_beside_the_model_is_built_into_it():
    """Not only by load_trained: the fold tool compares images by what comes out of build_model."""
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile('configs/mnist/lenet5_kerv.py')
    cfg.model.pop('data_preprocessor', None)
    cfg.data_preprocessor = dict(mean=[3.0], std=[2.0], num_classes=10)
    model = built(cfg)
    assert model.data_preprocessor.mean.flatten().tolist() == [3.0] and 'data_preprocessor' not in cfg.model
    again = build_model(cfg, model.state_dict(), 'a.pth')
    assert again.data_preprocessor.std.flatten().tolist() == [2.0]
    cfg.model.data_preprocessor = dict(mean=[5.0], std=[2.0])
    assert built(cfg).data_preprocessor.mean.flatten().tolist() == [5.0]


def test_an_image_beyond_the_limit_of_pillow_is_read(tmp_path, monkeypatch):
    """Its limit is 179 million pixels; aerial images of 14000 x 14000 have more."""
    from PIL import Image

    Image.new('RGB', (30, 20)).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert read_image(tmp_path / 'a.png').shape == (20, 30, 3) and Image.MAX_IMAGE_PIXELS == 100
    for module in ('mmkerv.image_files', 'mmkerv.deploy.trained_model'):
        monkeypatch.setattr(f'{module}.MOST_PIXELS', 500)
    with pytest.raises(ConfigError, match=r"a\.png' has more than 500 pixels, which OpenCV does not read; cut it into"):
        read_image(tmp_path / 'a.png')
