"""``mmkerv.CornerCrop``, and ten-crop testing as in the ImageNet configs."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmcv')

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope

from mmkerv.datasets.crops import POSITIONS, CornerCrop

ROOT = Path(__file__).resolve().parents[2]


def picture(height=9, width=12):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ('position', 'rows', 'columns'),
    [
        ('top-left', slice(0, 4), slice(0, 6)),
        ('top-right', slice(0, 4), slice(6, 12)),
        ('bottom-left', slice(5, 9), slice(0, 6)),
        ('bottom-right', slice(5, 9), slice(6, 12)),
        ('center', slice(2, 6), slice(3, 9)),
    ],
)
def test_each_position_crops_its_rows_and_columns(position, rows, columns):
    image = picture()
    results = CornerCrop((4, 6), position)({'img': image, 'img_shape': image.shape[:2], 'gt_label': 3})
    assert np.array_equal(results['img'], image[rows, columns])
    assert results['img_shape'] == (4, 6) and results['gt_label'] == 3


@pytest.mark.parametrize('size', [4, 6])
def test_the_five_crops_are_those_of_torchvision(size):
    from torchvision.transforms.functional import five_crop

    image = picture(10, 12)
    expected = five_crop(torch.from_numpy(image).permute(2, 0, 1), size)
    for position, crop in zip(POSITIONS, expected):
        assert np.array_equal(CornerCrop(size, position)({'img': image})['img'], crop.permute(1, 2, 0).numpy())


def test_an_image_as_large_as_the_crop_is_kept():
    for position in POSITIONS:
        assert np.array_equal(CornerCrop((9, 12), position)({'img': picture()})['img'], picture())


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        ((4, 'middle'), ValueError, 'position must be one of'),
        ((4, 'centre'), ValueError, "did you mean 'center'"),
        ((0, 'center'), ValueError, 'crop_size must be >= 1'),
        ((4.5, 'center'), TypeError, 'crop_size must be an integer'),
        (((4, 4, 4), 'center'), ValueError, 'crop_size must be one integer or 2'),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        CornerCrop(*arguments)


def test_an_image_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match=r'crop_size must fit the image, got \(10, 10\) for one of \(9, 12\)'):
        CornerCrop(10, 'center')({'img': picture()})


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
def test_the_transform_is_found_by_name_in_every_scope(scope):
    pytest.importorskip(scope)
    init_default_scope(scope)
    assert type(TRANSFORMS.build({'type': 'mmkerv.CornerCrop', 'crop_size': 2, 'position': 'center'})) is CornerCrop


def test_ten_crop_testing_averages_the_scores_of_five_crops_and_their_mirror_images():
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(ROOT / 'configs' / 'imagenet' / 'resnet18_kerv.py')
    load, *steps = copy.deepcopy(cfg.tta_pipeline)
    assert load.type == 'LoadImageFromFile'
    image = np.random.default_rng(0).integers(0, 256, (280, 300, 3), dtype=np.uint8)
    packed = Compose(steps)({'img': image, 'img_shape': image.shape[:2], 'ori_shape': image.shape[:2], 'gt_label': 7})

    resized = Compose(steps[:1])({'img': image, 'img_shape': image.shape[:2]})['img']
    assert min(resized.shape[:2]) == 256
    expected = []
    for position in POSITIONS:
        crop = CornerCrop(224, position)({'img': resized})['img']
        expected += [crop, crop[:, ::-1]]
    found = [view.permute(1, 2, 0).numpy() for view in packed['inputs']]
    assert len(found) == 10 and all(np.array_equal(a, b) for a, b in zip(found, expected))
    assert len({view.tobytes() for view in found}) == 10

    torch.manual_seed(0)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    net = MODELS.build({**cfg.tta_model, 'module': cfg.model}).eval()
    batch = {'inputs': [view[None] for view in packed['inputs']], 'data_samples': [[s] for s in packed['data_samples']]}
    (merged,) = net.test_step(copy.deepcopy(batch))
    with torch.no_grad():
        data = net.module.data_preprocessor({'inputs': torch.stack(packed['inputs'])}, False)
        scores = net.module(**data, mode='tensor').softmax(1)
    assert torch.allclose(merged.pred_score, scores.mean(0), atol=1e-6)
    assert not torch.allclose(scores[0], scores[1], atol=1e-6), 'the views must differ'
    assert merged.gt_label.item() == 7
