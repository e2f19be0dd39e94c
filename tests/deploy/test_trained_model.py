import pytest

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmkerv.deploy.trained_model import load_image, load_trained
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
