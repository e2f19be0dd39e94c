"""What the fold tool compares where a network computes no raw outputs from an image alone."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn

from mmkerv.deploy.compared_outputs import KINDS, computable
from mmkerv.deploy.fold import fold_checkpoint, shapes_to_try
from mmkerv.deploy.model_outputs import image_channels
from mmkerv.deploy.trained_model import built
from mmkerv.errors import ConfigError, FoldCheckError
from tests.engine.small_networks import COC, SIZE, associated, retinanet, segmentor


class Network(nn.Module):
    """A network of the three libraries, of which some modes are refused."""

    def __init__(self, modes=(), sizes=(SIZE,), random=False):
        super().__init__()
        self.backbone, self.modes, self.sizes, self.random = nn.Conv2d(3, 4, 3), modes, sizes, random

    def extract_feat(self, inputs):
        assert 'features' in self.modes
        return [self.backbone(inputs)]

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if tuple(inputs.shape[2:]) not in self.sizes:
            raise ValueError('another size is needed')
        if mode not in self.modes:
            raise NotImplementedError(f'there is no mode {mode}\nat all')
        out = self.backbone(inputs) + (torch.randn(1) if self.random else 0)
        if mode == 'tensor':
            return out
        sample = BaseDataElement(metainfo=dict(img_shape=SIZE))
        sample.pred_instances = InstanceData(scores=out.mean((0, 2, 3)), labels=torch.arange(4))
        return [sample]


@pytest.mark.parametrize(
    ('modes', 'name', 'count'),
    [
        (('tensor', 'predict', 'features'), 'raw outputs', 1),
        (('predict', 'features'), 'predictions', 2),
        (('features',), 'features of backbone and neck', 1),
    ],
)
def test_the_first_kind_that_works_is_taken(modes, name, count):
    model, x = Network(modes).eval(), torch.randn(1, 3, *SIZE)
    kind, shape = computable(model, [SIZE])
    assert kind.name == name and shape == SIZE
    assert len(kind.of(model, x)) == count


def test_every_size_is_tried_before_the_next_kind():
    model = Network(('tensor', 'predict', 'features'), sizes=[(32, 48)]).eval()
    kind, shape = computable(model, [SIZE, (32, 48)])
    assert (kind.name, shape) == ('raw outputs', (32, 48))


def test_a_network_that_computes_nothing_is_refused_in_one_line():
    with pytest.raises(FoldCheckError) as caught:
        computable(Network().eval(), [SIZE])
    message = str(caught.value)
    assert '\n' not in message and '--shape' in message
    assert 'raw outputs: NotImplementedError there is no mode tensor; predictions: NotImplementedError' in message
    assert 'features of backbone and neck: AssertionError' in message


def test_nan_is_no_output():
    model = Network(('tensor',)).eval()
    model.backbone.bias.data.fill_(float('nan'))
    with pytest.raises(FoldCheckError, match='raw outputs: NaN or infinite'):
        computable(model, [SIZE])


def test_random_networks_draw_the_same_numbers():
    model, x = Network(('tensor',), random=True).eval(), torch.randn(1, 3, *SIZE)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(*(KINDS[0].of(model, x)[0] for _ in range(2)))


class Focus(nn.Module):
    """A stem that folds 2x2 pixels into channels, as YOLOX has it."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, 8, 3)

    def forward(self, x):
        return self.conv(torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1))


def with_backbone(backbone, mean=None):
    model = nn.Module()
    model.data_preprocessor, model.backbone = nn.Module(), backbone
    if mean is not None:
        model.data_preprocessor.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), False)
    return model.eval()


@pytest.mark.parametrize(
    ('model', 'channels'),
    [
        (with_backbone(nn.Conv2d(1, 4, 3), mean=[0.5]), 1),
        (with_backbone(nn.Conv2d(3, 4, 3), mean=[0.5]), 3),
        (with_backbone(Focus(3), mean=[1.0, 2.0, 3.0]), 3),
        (with_backbone(nn.Conv2d(5, 4, 3), mean=[0.0] * 5), 5),
        (with_backbone(nn.Conv2d(4, 4, 3)), 4),
        (with_backbone(Focus(3)), 3),
        (nn.Sequential(nn.Conv2d(6, 4, 3)), 6),
        (nn.Identity(), 3),
    ],
)
def test_images_have_the_channels_of_the_preprocessor(model, channels):
    assert image_channels(model) == channels


def test_the_sizes_of_the_config_are_tried():
    model = nn.Sequential(nn.Identity())
    model.data_preprocessor, model[0].img_size = nn.Identity(), (96, 80)
    model.data_preprocessor.size = (512, 1024)
    steps = [
        dict(type='Resize', scale=(128, 256)),
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(type='ResizeEdge', scale=256, edge='short'),
        dict(type='CenterCrop', crop_size=384),
    ]
    cfg = Config(dict(default_scope='mmseg', test_dataloader=dict(dataset=dict(pipeline=steps))))
    expected = [(256, 256), (512, 1024), (96, 80), (256, 128), (384, 384)]
    assert shapes_to_try(cfg, model) == expected


def save(model, tmp_path):
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    return tmp_path / 'a.pth', tmp_path / 'b.pth'


@pytest.mark.parametrize('broken', ['tensor', 'tensor and predict'])
def test_a_segmentor_without_a_tensor_mode_folds(broken, tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    cfg = segmentor()
    files = save(associated(cfg), tmp_path)

    def refuse(*args, **kwargs):
        raise TypeError('upstream never ran this')

    kind = MODELS.get('mmseg.EncoderDecoder')
    monkeypatch.setattr(kind, '_forward', refuse)
    if 'predict' in broken:
        monkeypatch.setattr(kind, 'predict', refuse)
    result = fold_checkpoint(cfg, *files, shape=SIZE)
    expected = 'features of backbone and neck' if 'predict' in broken else 'predictions'
    assert result.compared == expected and result.error == 0


def test_yolox_folds(tmp_path):
    """Its images have three channels, its first convolution twelve."""
    pytest.importorskip('mmdet')
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(
                type='YOLOX',
                data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
                backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.125, conv_cfg=COC),
                neck=dict(type='YOLOXPAFPN', in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1),
                bbox_head=dict(type='YOLOXHead', num_classes=3, in_channels=16, feat_channels=16),
            ),
        )
    )
    result = fold_checkpoint(cfg, *save(associated(cfg), tmp_path))
    assert result.compared == 'raw outputs' and result.error == 0 and len(result.report.replaced) > 5


@pytest.mark.parametrize(
    'error', [OSError('no connection\nto the hub'), ImportError(), RuntimeError('install it'), AssertionError()]
)
def test_a_network_that_cannot_be_built_here_says_why_in_one_line(error, monkeypatch):
    pytest.importorskip('mmdet')

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(MODELS, 'build', refuse)
    with pytest.raises(ConfigError, match=f'cannot be built here: {type(error).__name__}') as caught:
        built(retinanet())
    assert '\n' not in str(caught.value)
