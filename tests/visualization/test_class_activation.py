"""Class activation maps of synthetic and real networks."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('matplotlib')

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.deploy.model_outputs import sample_inputs
from mmkerv.errors import ConfigError, InstallationError
from mmkerv.visualization import class_activation
from mmkerv.visualization.class_activation import METHODS, Explained, cam_method, draw_explained, explain_image
from mmkerv.visualization.class_scores import ClassScores, category_index, class_names
from tests.engine.small_networks import NETWORKS, SIZE, associated
from tests.tool_process import run_tool
from tests.visualization.tool_runs import ROOT, refused

TOOL = 'tools/visualization/vis_cam.py'


class Halves(nn.Module):
    """Network whose category 0 is the mean of the left half of the image, category 1 that of the right half."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), Windows(), nn.ReLU(inplace=inplace))
        nn.init.ones_(self.backbone[0].weight)
        nn.init.zeros_(self.backbone[0].bias)

    def forward(self, inputs, samples=None, mode='tensor'):
        return self.backbone(inputs).mean((2, 3))


class Windows(nn.Module):
    def forward(self, x):
        columns = torch.arange(x.shape[3], device=x.device) < x.shape[3] // 2
        return x * torch.stack([columns, ~columns])[None, :, None, :]


class Sum(nn.Module):
    """Network with one channel for both categories; only the gradients of the scores differ."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.backbone.weight)
        nn.init.zeros_(self.backbone.bias)

    def forward(self, inputs, samples=None, mode='tensor'):
        y = self.backbone(inputs)
        middle = y.shape[3] // 2
        return torch.stack([y[..., :middle].sum((1, 2, 3)), y[..., middle:].sum((1, 2, 3))], 1)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 8, 12, generator=torch.Generator().manual_seed(0)) + 0.5


def halves(heat: np.ndarray) -> tuple[float, float]:
    return float(heat[:, :6].mean()), float(heat[:, 6:].mean())


def cam(model: nn.Module, image: torch.Tensor, category: int, layer: str, method: str = 'GradCAM', **options):
    pytest.importorskip('pytorch_grad_cam')
    return class_activation.class_activation(model.eval(), image, None, category, [layer], method, **options)


@pytest.mark.parametrize('method', [name for name in METHODS if not name.startswith('Eigen')])
@pytest.mark.parametrize('category', [0, 1])
def test_the_map_covers_the_half_of_the_category(image, method, category):
    found = cam(Halves(), image, category, 'backbone', method)
    seen, other = halves(found.heat)[:: 1 if category == 0 else -1]
    assert found.heat.shape == (8, 12) and found.heat.max() <= 1
    assert seen > 0.5 and other < (0.7 * seen if method == 'ScoreCAM' else 1e-6)
    half = image[..., :6] if category == 0 else image[..., 6:]
    assert found.score == pytest.approx(float(half.sum() / image.numel()))


@pytest.mark.parametrize('method', ['LayerCAM', 'HiResCAM', 'GradCAMElementWise', 'EigenGradCAM'])
def test_methods_with_gradients_by_position_separate_halves_of_one_channel(image, method):
    left, right = halves(cam(Sum(), image, 0, 'backbone', method).heat)
    assert abs(left - right) > 0.3


@pytest.mark.parametrize('options', [dict(eigen_smooth=True), dict(aug_smooth=True)])
def test_smoothing_keeps_the_half(image, options):
    heat = cam(Halves(), image, 0, 'backbone', **options).heat
    assert np.isfinite(heat).all() and heat.shape == (8, 12)
    # Half of the augmented images are mirrored, and the network uses the left half of these too. The sign of a
    # principal component is arbitrary.
    assert 'eigen_smooth' in options or min(halves(heat)) > 0.2


def test_maps_of_frozen_layers(image):
    model = Halves().requires_grad_(False)
    left, right = halves(cam(model, image, 0, 'backbone').heat)
    assert left > 0.5 and right < 1e-6


def test_an_in_place_operation_after_the_layer_does_not_change_the_map():
    image = torch.randn(1, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    heats = [cam(Halves(inplace), image, 0, 'backbone.1', 'EigenCAM').heat for inplace in (False, True)]
    np.testing.assert_array_equal(*heats)
    assert heats[0].max() > 0.5


def test_several_maps_are_averaged_or_one_is_selected(image):
    class Pair(nn.Module):
        def forward(self, x):
            return [x * 2, torch.flip(x, (3,)) * (torch.arange(x.shape[3]) < 3)]

    class Both(nn.Module):
        def __init__(self, used):
            super().__init__()
            self.backbone, self.used, self.bias = Pair(), used, nn.Parameter(torch.zeros(1))

        def forward(self, inputs, samples=None, mode='tensor'):
            maps = self.backbone(inputs)
            return sum(m.mean((2, 3)) for use, m in zip(self.used, maps) if use).repeat(1, 2)

    both = cam(Both((1, 1)), image, 0, 'backbone')
    assert both.layers == ['backbone:0', 'backbone:1']
    alone = [cam(Both((1, 1)), image, 0, f'backbone:{index}') for index in (0, -1)]
    assert [a.layers for a in alone] == [['backbone:0'], ['backbone:1']]
    np.testing.assert_allclose(both.heat, sum(a.heat for a in alone) / sum(a.heat for a in alone).max(), atol=0.02)
    assert cam(Both((1, 0)), image, 0, 'backbone').layers == ['backbone:0']
    with pytest.raises(ConfigError, match="does not depend on 'backbone:1'"):
        cam(Both((1, 0)), image, 0, 'backbone:1')
    with pytest.raises(ConfigError, match=r'returns 2 feature maps, .* use backbone:0 to backbone:1'):
        cam(Both((1, 1)), image, 0, 'backbone:2')


@pytest.fixture(scope='module', params=list(NETWORKS))
def network(request) -> tuple[str, nn.Module]:
    pytest.importorskip({'classifier': 'mmpretrain', 'segmentor': 'mmseg'}.get(request.param, 'mmdet'))
    return request.param, associated(NETWORKS[request.param]())


def test_scores_of_every_task(network):
    kind, model = network
    inputs, samples = next(sample_inputs(model, SIZE))
    scores = ClassScores(model, samples, topk=3)
    with torch.no_grad():
        found = scores(inputs)[0]
        if kind == 'classifier':
            expected = model(inputs, mode='tensor')[0]
        elif kind == 'segmentor':
            logits = model.encode_decode(inputs, [dict(img_shape=SIZE)])[0]
            at = logits.argmax(0)
            expected = torch.stack([logits[k][at == k].sum() for k in range(4)])
        elif kind == 'retinanet':
            levels = model(inputs, samples, mode='tensor')[0]
            # Nine anchors with three categories each.
            expected = torch.stack(
                [torch.cat([s[0, k::3].flatten() for s in levels]).sort(descending=True)[0][:3].sum() for k in range(3)]
            )
        else:
            regions = model(inputs, samples, mode='tensor')[0][0]
            expected = regions.sort(0, descending=True)[0][:3, :3].sum(0)
    torch.testing.assert_close(found, expected)
    # Methods that mask the image score a batch of images.
    pair = torch.cat([inputs, inputs.flip(3)])
    with torch.no_grad():
        torch.testing.assert_close(scores(pair)[1:], scores(pair[1:]), rtol=1e-3, atol=1e-3)


def test_probabilities_are_those_that_the_network_predicts(network, monkeypatch):
    kind, model = network
    if kind == 'retinanet':
        # Every score of random weights is low.
        monkeypatch.setitem(model.bbox_head.test_cfg, 'score_thr', 0.0)
    inputs, samples = next(sample_inputs(model, SIZE))
    found = ClassScores(model, samples).probabilities(inputs)
    with torch.no_grad():
        if kind == 'classifier':
            expected = model(inputs, mode='tensor')[0].softmax(0).tolist()
        elif kind == 'segmentor':
            shares = model.encode_decode(inputs, [dict(img_shape=SIZE)])[0].softmax(0)
            at = shares.argmax(0)
            expected = [float(shares[k][at == k].mean()) if (at == k).any() else 0 for k in range(4)]
        else:
            instances = model(inputs, samples, mode='predict')[0].pred_instances
            pairs = [*zip(instances.labels.tolist(), instances.scores.tolist())]
            expected = [max([0, *(score for label, score in pairs if label == k)]) for k in range(3)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5) and 0 < found.max() <= 1


def test_maps_of_every_task(network):
    pytest.importorskip('pytorch_grad_cam')
    kind, model = network
    inputs, samples = next(sample_inputs(model, SIZE))
    category = ClassScores(model, samples).likeliest(inputs)
    layers = ['neck'] if kind in ('retinanet', 'mask_rcnn') else ['backbone:-1']
    found = class_activation.class_activation(model, inputs, samples, category, layers, 'LayerCAM')
    assert found.heat.shape == SIZE and 0.5 < found.heat.max() <= 1 and np.isfinite(found.heat).all()
    # The last map of the neck is for the first stage only, and a map without regions has no gradient.
    assert len(found.layers) in {'retinanet': (5,), 'mask_rcnn': (1, 2, 3, 4)}.get(kind, (1,))
    assert all(p.grad is None for p in model.parameters())


def test_categories_are_found_by_index_and_name():
    names = ['background', 'boat', 'cow']
    assert [category_index(given, names, 3) for given in ('cow', '1')] == [2, 1]
    with pytest.raises(ConfigError, match="no category 'dog'; use a number from 0 to 2, or one of background, boat"):
        category_index('dog', names, 3)
    with pytest.raises(ConfigError, match=r"no category '3'; use a number from 0 to 2$"):
        category_index('3', None, 3)
    with pytest.raises(ConfigError, match=r"'cow' is predicted at no pixel, .*; predicted are background, boat"):
        category_index('cow', names, 3, predicted=(0, 1))


def test_the_default_category_of_a_segmentor_is_not_the_background():
    class Segmentor(nn.Module):
        def encode_decode(self, inputs, metas):
            logits = torch.zeros(1, 3, 4, 4)
            logits[:, 0] = 1
            logits[:, 2, :2, 0] = 2
            return logits

    scores, inputs = ClassScores(Segmentor()), torch.zeros(1, 3, 4, 4)
    assert scores.likeliest(inputs, ['background', 'boat', 'cow']) == 2
    assert scores.likeliest(inputs, ['wall', 'boat', 'cow']) == 0
    assert scores.predicted(inputs) == [0, 2]
    assert scores(inputs).tolist() == [[14.0, 0.0, 4.0]]


@pytest.mark.parametrize('threshold, pixels', [(0.3, 3), (0.5, 2), (0.9, 1)])
def test_one_channel_is_predicted_above_the_threshold_of_the_head(threshold, pixels):
    class Segmentor(nn.Module):
        decode_head = SimpleNamespace(out_channels=1, threshold=threshold)

        def encode_decode(self, inputs, metas):
            return torch.tensor([0.2, 0.4, 0.6, 0.95]).logit().reshape(1, 1, 2, 2)

    scores, inputs = ClassScores(Segmentor()), torch.zeros(1, 3, 2, 2)
    expected = torch.tensor([0.95, 0.6, 0.4])[:pixels]
    assert scores(inputs)[0].tolist() == pytest.approx([0.0, float(expected.logit().sum())], abs=1e-5)
    assert scores.likeliest(inputs) == 1 and scores.predicted(inputs) == [0, 1]
    assert scores.probabilities(inputs)[1] == pytest.approx(float(expected.mean()))


def test_a_category_that_only_the_first_network_predicts_has_a_map_of_zeros(monkeypatch):
    """A segmentor compared with another ends with both rows, also if their names of the category differ."""
    pytest.importorskip('pytorch_grad_cam')

    class Segmentor(nn.Module):
        def __init__(self, category: int):
            super().__init__()
            self.backbone = nn.Conv2d(3, 3, 1)
            nn.init.constant_(self.backbone.bias[category : category + 1], 50.0)

        def encode_decode(self, inputs, metas):
            return self.backbone(inputs)

    inputs = torch.rand(1, 3, 6, 5)
    data = {'inputs': inputs, 'data_samples': None}
    monkeypatch.setattr(class_activation, 'load_image', lambda *args: data)
    one, other = (Segmentor(category).eval() for category in (1, 2))
    found = explain_image(one, Config(), 'a.png', ['wall', 'boat', 'cow'])
    assert list(found.activations) == ['boat'] and found.activations['boat'].probability > 0.9
    with pytest.raises(ConfigError, match='predicted at no pixel'):
        explain_image(other, Config(), 'a.png', None, ['1'])
    absent = explain_image(other, Config(), 'a.png', None, ['1'], absent=True).activations
    assert list(absent) == ['category 1'] and not absent['category 1'].heat.any()
    assert absent['category 1'].probability == 0
    figure = draw_explained([('one', found), ('other', Explained(found.picture, absent))])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == 'boat' and titles[1].startswith('one ') and titles[2] == 'other 0.0 %'


def test_names_come_from_the_checkpoint_before_the_config(tmp_path):
    cfg = Config(dict(test_dataloader=dict(dataset=dict(metainfo=dict(classes=('a', 'b'))))))
    assert class_names(cfg) == ['a', 'b']
    torch.save({'state_dict': {}, 'meta': {'dataset_meta': {'CLASSES': ('c', 'd')}}}, tmp_path / 'net.pth')
    assert class_names(cfg, tmp_path / 'net.pth') == ['c', 'd']
    assert class_names(Config()) is None


def test_names_of_methods_are_case_insensitive():
    pytest.importorskip('pytorch_grad_cam')
    assert cam_method('gradcam++').__name__ == cam_method('GradCAMPlusPlus').__name__ == 'GradCAMPlusPlus'
    assert {cam_method(name).__name__ for name in METHODS} == set(METHODS.values())


def test_the_message_about_missing_grad_cam_has_the_command(monkeypatch):
    monkeypatch.setattr(class_activation, 'importable', lambda name: False)
    with pytest.raises(InstallationError, match=r'grad-cam, .* is not installed; .*pip install.* grad-cam'):
        cam_method('GradCAM')


CONFIG = """
_base_ = 'configs/demo/resnet18_coc_shapes.py'
model = dict(backbone=dict(stem_channels=8, base_channels=8), head=dict(in_channels=64))
"""


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> tuple[str, str, str]:
    """Paths of an image, a config and a checkpoint."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('pytorch_grad_cam')
    import mmcv

    folder = tmp_path_factory.mktemp('cam')
    mmcv.imwrite(np.random.default_rng(0).integers(0, 256, (80, 64, 3), np.uint8), str(folder / 'image.png'))
    (folder / 'coc.py').write_text(CONFIG.replace('configs', str(ROOT / 'configs')))
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(folder / 'coc.py').model)
    meta = {'dataset_meta': {'classes': ['circle', 'rectangle', 'triangle']}}
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, folder / 'net.pth')
    return str(folder / 'image.png'), str(folder / 'coc.py'), str(folder / 'net.pth')


def test_the_tool_writes_the_picture(files, tmp_path):
    out = tmp_path / 'cam.png'
    arguments = ('--method', 'LayerCAM', '--target-category', 'circle', 2, '--save-path', out, '--compare', *files[1:])
    done = run_tool(TOOL, *files, *arguments)
    assert done.status == 0, done.err
    assert done.out.count('coc: circle, probability 0.') == done.out.count('coc: triangle, probability 0.') == 2
    assert out.read_bytes().startswith(b'\x89PNG')
    heats = np.load(out.with_suffix('.npz'))
    assert sorted(heats) == ['0_circle', '0_triangle', '1_circle', '1_triangle']
    assert heats['0_circle'].shape == (64, 64)
    np.testing.assert_array_equal(heats['0_circle'], heats['1_circle'])
    assert not np.array_equal(heats['0_circle'], heats['0_triangle'])


def test_the_maps_of_the_best_classes_are_fused_on_a_canvas(files, tmp_path):
    """Figure 10 of the CoC paper: the maximum over the best classes, of an image that is padded to a size."""
    flags = ('--pad', '96x64', '--method', 'LayerCAM')
    maps = {}
    for name, more in (('fused', ('--fuse', 'max', '--topk', 2)), ('single', ('--target-category', 0, 1, 2))):
        done = run_tool(TOOL, *files, *flags, *more, '--save-path', tmp_path / f'{name}.png')
        assert done.status == 0, done.err
        maps[name] = np.load(tmp_path / f'{name}.npz')
        scores = {k: float(s) for k, s in re.findall(r': (.+), probability ([-+.e\d]+),', done.out)}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-3)
    best = sorted(scores, key=scores.get)[-2:]
    expected = np.maximum(*(maps['single'][f'0_{name}'] for name in best))
    np.testing.assert_allclose(maps['fused']['0_maximum over the categories'], expected)
    assert expected.shape == (64, 96), 'with the padding'


def test_an_image_is_resized_to_fit_and_padded(files):
    from mmkerv.deploy.trained_model import load_image, load_trained
    from mmkerv.visualization.pictures import input_picture

    cfg, model = load_trained(*files[1:])
    data = load_image(model, cfg, files[0], (96, 40))
    # 64 x 80 pixels become 32 x 40.
    assert data['inputs'].shape == (1, 3, 40, 96) and data['data_samples'][0].img_shape == (40, 96)
    assert (data['inputs'][..., 32:] == 0).all() and (data['inputs'][..., :32] != 0).all()
    picture = input_picture(model, data['inputs'], data['data_samples'][0])
    assert picture.shape == (40, 96, 3) and picture[0, -1].tolist() == [124, 116, 104]


@pytest.mark.parametrize('size', ['1024', '0x8', '8x-1', 'axb'])
def test_a_canvas_is_two_numbers(size):
    assert 'must be WIDTHxHEIGHT' in run_tool(TOOL, 'a.png', 'a.py', 'a.pth', '--pad', size).err


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (('--method', 'CamCam'), "--method must be one of GradCAM, GradCAM++, XGradCAM, .*, got 'CamCam'"),
        (('--target-layers', 'backbone.layer9'), "no layer 'backbone.layer9'; the nearest names are backbone.layer"),
        (('--target-layers', 'head.fc'), "layer 'head.fc' returns no feature map"),
        (
            ('--target-category', '3'),
            "no category '3'; use a number from 0 to 2, or one of circle, rectangle, triangle",
        ),
        (('--save-path', 'cam'), "--save-path must end in .png, .svg, .pdf, .jpg, got 'cam'"),
        (('--device', 'tpu'), "--device 'tpu' cannot be used here"),
    ],
)
def test_bad_input_ends_in_one_line(files, tmp_path, arguments, expected):
    message = refused(TOOL, *files, '--save-path', tmp_path / 'out' / 'cam.png', *arguments)
    assert expected.split('.*')[0] in message and expected.split('.*')[-1] in message
    assert not (tmp_path / 'out').exists()


def test_a_file_that_is_not_an_image_is_refused(files, tmp_path):
    assert 'does not exist' in refused(TOOL, tmp_path / 'absent.png', *files[1:], '--save-path', tmp_path / 'cam.png')
    (tmp_path / 'text.png').write_text('no image')
    said = refused(TOOL, tmp_path / 'text.png', *files[1:], '--save-path', tmp_path / 'cam.png')
    assert 'cannot be read as an image' in said
