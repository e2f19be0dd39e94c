"""Feature maps of networks of three tasks, and their pictures."""

import numpy as np
import pytest

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('matplotlib')

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

from mmkerv.deploy.model_outputs import sample_inputs
from mmkerv.errors import ConfigError
from mmkerv.visualization.feature_maps import (
    draw_feature_map,
    feature_maps,
    last_map,
    layout,
    stage_maps,
    without_padding,
)
from mmkerv.visualization.pictures import input_picture
from tests.engine.small_networks import NETWORKS, SIZE, associated
from tests.tool_process import run_tool
from tests.visualization.tool_runs import ROOT, refused

TOOL = 'tools/visualization/vis_featmap.py'


@pytest.fixture(scope='module', params=list(NETWORKS))
def network(request) -> tuple[str, nn.Module]:
    pytest.importorskip({'classifier': 'mmpretrain', 'segmentor': 'mmseg'}.get(request.param, 'mmdet'))
    return request.param, associated(NETWORKS[request.param]())


@torch.no_grad()
def test_maps_are_the_outputs_of_the_backbone(network):
    _, model = network
    inputs, samples = next(sample_inputs(model, SIZE))
    expected = model.backbone(inputs)
    found = feature_maps(model, inputs, samples, ['backbone'])
    assert list(found) == (['backbone'] if len(expected) == 1 else [f'backbone:{i}' for i in range(len(expected))])
    for got, want in zip(found.values(), expected):
        torch.testing.assert_close(got, want)
    stages = [f'backbone.layer{number}' for number in (1, 2, 3, 4)]
    assert stage_maps(model, inputs) == (['backbone'] if len(expected) > 1 else stages)
    assert len(feature_maps(model, inputs, samples, stage_maps(model, inputs))) == 4
    name = last_map(model, inputs)
    assert name == 'backbone:-1'
    torch.testing.assert_close(feature_maps(model, inputs, samples, [name]).popitem()[1], expected[-1])


@torch.no_grad()
def test_maps_of_layers_after_the_backbone(network):
    kind, model = network
    inputs, samples = next(sample_inputs(model, SIZE))
    layer = {'classifier': 'neck', 'segmentor': 'decode_head.convs', 'retinanet': 'bbox_head.cls_convs'}.get(
        kind, 'neck'
    )
    if kind == 'classifier':
        with pytest.raises(ConfigError, match="layer 'neck' returns no feature map"):
            feature_maps(model, inputs, samples, [layer])
    elif kind == 'segmentor':
        found = feature_maps(model, inputs, samples, [layer, 'backbone:-1'])
        assert list(found) == [layer, 'backbone:3']
    elif kind == 'retinanet':
        # The layers of the head run once for every level of the neck.
        found = feature_maps(model, inputs, samples, [f'{layer}.0'])
        assert [tuple(m.shape[2:]) for m in found.values()] == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    else:
        expected = model.extract_feat(inputs)
        for got, want in zip(feature_maps(model, inputs, samples, [layer]).values(), expected):
            torch.testing.assert_close(got, want)
        with pytest.raises(ConfigError, match='returns no feature map'):
            feature_maps(model, inputs, samples, ['roi_head.mask_head.convs'])


def test_the_last_map_of_a_backbone_that_returns_a_vector():
    from mmkerv.models import LeNet5Kerv

    model = nn.Module()
    model.backbone = LeNet5Kerv()
    assert last_map(model, torch.rand(1, 1, 28, 28)) == 'backbone.layer2'
    model.backbone = nn.Flatten()
    with pytest.raises(ConfigError, match=r'the backbone \(Flatten\) returns no feature maps'):
        last_map(model, torch.rand(1, 1, 4, 4))


@pytest.fixture
def feature() -> torch.Tensor:
    """Four channels; the sum of the third is the largest, then that of the first."""
    feature = torch.zeros(4, 2, 2)
    feature[2, 0, 0], feature[0, 1, 1], feature[3] = 4.0, 3.0, -1.0
    return feature


@pytest.mark.parametrize(
    'reduction, titles',
    [
        ('squeeze_mean', ['mean of 4 channels']),
        ('select_max', ['channel 2']),
        ('none', ['channel 2', 'channel 0', 'channel 1']),
    ],
)
def test_reductions_select_their_channels(feature, reduction, titles):
    picture = np.full((8, 8, 3), 100, np.uint8)
    drawn = draw_feature_map(feature, picture, reduction, topk=3)
    assert [title for title, _ in drawn] == titles
    assert all(image.shape == (8, 8, 3) for _, image in drawn)
    if reduction != 'squeeze_mean':
        # The colour map goes from blue to red.
        image = drawn[0][1].astype(int)
        assert image[0, 0, 0] > image[7, 7, 0] and image[0, 0, 2] < image[7, 7, 2]


def test_layout_of_image_and_maps(feature):
    picture = np.zeros((8, 8, 3), np.uint8)
    maps = {'neck:0': feature, 'neck:1': feature}
    assert [len(row) for row in layout(maps, picture)] == [3]
    rows = layout(maps, picture, 'none', 4, (2, 2))
    assert [len(row) for row in rows] == [1, 2, 2, 2, 2]
    assert rows[3][0][0] == 'neck:1\nchannel 2'


def test_padding_is_removed():
    sample = BaseDataElement(metainfo=dict(img_shape=(48, 64)))
    inputs = torch.zeros(1, 3, 64, 96)
    assert without_padding(torch.zeros(4, 16, 24), inputs, sample).shape == (4, 12, 16)
    assert without_padding(torch.zeros(4, 1, 1), inputs, sample).shape == (4, 1, 1)
    assert input_picture(nn.Module(), inputs, sample).shape == (48, 64, 3)


def test_the_picture_is_the_image_before_the_preprocessor(network):
    kind, model = network
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _, samples = next(sample_inputs(model, SIZE))
    data = {'inputs': image[None] if kind == 'classifier' else [image], 'data_samples': samples}
    inputs = model.data_preprocessor(data, False)['inputs']
    # Files are read as BGR; the detectors and the classifier of these configs convert them, the others do not.
    np.testing.assert_array_equal(input_picture(model, inputs), image.flip(0).permute(1, 2, 0).numpy())


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> tuple[str, str, str]:
    """Paths of an image, a config and a checkpoint."""
    pytest.importorskip('mmpretrain')
    import mmcv

    folder = tmp_path_factory.mktemp('featmap')
    mmcv.imwrite(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8), str(folder / '7.png'))
    config = str(ROOT / 'configs/mnist/lenet5_kerv.py')
    init_default_scope('mmpretrain')
    torch.save(MODELS.build(Config.fromfile(config).model).state_dict(), folder / 'lenet.pth')
    return str(folder / '7.png'), config, str(folder / 'lenet.pth')


def test_the_tool_writes_the_picture(files, tmp_path):
    arguments = ('--out-dir', tmp_path, '--arrays', '--channel-reduction', 'none', '--topk', 3, '--arrangement', 2, 2)
    done = run_tool(TOOL, *files, *arguments)
    assert done.status == 0, done.err
    assert 'backbone.layer2: 16 x 5 x 5' in done.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ['7_lenet5_kerv.npz', '7_lenet5_kerv.png']
    assert np.load(tmp_path / '7_lenet5_kerv.npz')['backbone.layer2'].shape == (16, 5, 5)


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (('--target-layers', 'backbone.layr1'), "no layer 'backbone.layr1'; the nearest names are backbone.layer1"),
        (('--target-layers', 'backbone.layer1:1'), "'backbone.layer1:1' is not one of them"),
        (('--out-file', 'maps.gif'), '--out-file must end in .png'),
    ],
)
def test_bad_input_ends_in_one_line(files, tmp_path, arguments, expected):
    out = () if '--out-file' in arguments else ('--out-dir', tmp_path / 'out')
    assert expected in refused(TOOL, *files, *out, *arguments)
    assert not (tmp_path / 'out').exists()
