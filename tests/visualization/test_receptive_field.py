"""Effective receptive fields against theory and finite differences."""

import numpy as np
import pytest

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('matplotlib')

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.deploy.trained_model import load_trained
from mmkerv.errors import ConfigError
from mmkerv.image_files import find_images
from mmkerv.ops import CKConv2d, CoCConv2d, KervConv2d
from mmkerv.visualization.receptive_field import (
    ReceptiveField,
    draw_receptive_fields,
    receptive_field,
    receptive_inputs,
    square_of_share,
)
from tests.tool_process import run_tool
from tests.visualization.tool_runs import ROOT, refused

TOOL = 'tools/visualization/vis_erf.py'


def network(*layers: nn.Module) -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(*layers)
    return model.eval()


def random_inputs(*shape: int, count: int = 1, dtype: torch.dtype = torch.float32) -> list:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(1, *shape, generator=generator, dtype=dtype), None) for _ in range(count)]


@pytest.mark.parametrize(
    'sizes, strides, side', [((3, 3), (1, 1), 5), ((7, 3), (2, 1), 11), ((5, 3, 3), (2, 2, 1), 17)]
)
def test_the_support_is_the_theoretical_receptive_field(sizes, strides, side):
    layers = [nn.Conv2d(2, 2, k, s, padding=k // 2) for k, s in zip(sizes, strides)]
    for layer in layers:
        nn.init.uniform_(layer.weight, 0.1, 1.0)
    model = network(*layers)
    found = receptive_field(model, random_inputs(2, 40, 48), 'backbone')
    rows, columns = (np.flatnonzero(found.field.any(axis)) for axis in (1, 0))
    assert len(rows) == len(columns) == side
    assert np.count_nonzero(found.field) == side**2
    assert found.centre == (rows[side // 2], columns[side // 2])
    assert square_of_share(found.field, 1.0, found.centre)[0] == side


@pytest.mark.parametrize(
    'operator',
    [
        lambda: KervConv2d(2, 3, 3, padding=1, kernel='polynomial', degree=3, balance=0.7),
        lambda: KervConv2d(2, 3, 3, padding=1, kernel='gaussian', gamma=0.3),
        lambda: CoCConv2d(2, 3, 3, padding=1, super_init='kaiming'),
        lambda: CKConv2d(2, 3, 5, padding=2),
    ],
    ids=['polynomial', 'gaussian', 'coc', 'ck'],
)
def test_the_gradient_is_that_of_finite_differences(operator):
    """Two images with two channels, so that the order of absolute value, sum and mean matters."""
    torch.manual_seed(0)
    model = network(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh(), operator()).double()
    inputs = random_inputs(2, 7, 7, count=2, dtype=torch.float64)
    expected = np.zeros((7, 7))
    for x, _ in inputs:
        for channel, i, j in np.ndindex(2, 7, 7):
            step = torch.zeros_like(x)
            step[0, channel, i, j] = 1e-5
            with torch.no_grad():
                above, below = (model.backbone(x + sign * step)[0, :, 3, 3].sum() for sign in (1, -1))
            expected[i, j] += abs(float(above - below)) / 2e-5 / len(inputs)
    found = receptive_field(model, inputs, 'backbone').field
    assert found[3, 3] > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_an_in_place_operation_after_the_layer_does_not_change_the_field():
    """The output of the layer counts, not that of the ReLU."""
    model = network(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(inplace=True))
    nn.init.constant_(model.backbone[0].weight, 1.0)
    nn.init.constant_(model.backbone[0].bias, -100.0)
    inputs = random_inputs(1, 9, 9)
    assert np.count_nonzero(receptive_field(model, inputs, 'backbone.0').field) == 9
    assert not receptive_field(model, inputs, 'backbone.1').field.any()


@pytest.mark.parametrize(
    'share, side, ratio', [(0.3, 1, 1 / 35), (0.5, 1, 1 / 35), (0.51, 3, 9 / 35), (0.75, 3, 9 / 35), (0.99, 7, 1.0)]
)
def test_squares_of_a_field_made_by_hand(share, side, ratio):
    """Half is in the middle, a quarter around it, a quarter in a column that only the largest square contains."""
    field = np.zeros((5, 7))
    field[2, 3], field[1, 2], field[4, 0] = 2.0, 1.0, 1.0
    assert square_of_share(field, share) == (side, pytest.approx(ratio))


def test_squares_end_at_the_border():
    field = np.ones((9, 9))
    assert square_of_share(field, 1.0, (0, 0)) == (9, 1.0)
    assert square_of_share(field, 1 / 9, (0, 0)) == (5, pytest.approx(9 / 81))


def test_a_field_of_zeros_is_refused():
    with pytest.raises(ConfigError, match='does not respond'):
        square_of_share(np.zeros((3, 3)), 0.5)


def test_a_layer_that_does_not_depend_on_the_image_is_refused():
    class Constant(nn.Module):
        def forward(self, x):
            return x.new_ones(1, 1, 4, 4)

    with pytest.raises(ConfigError, match="'backbone' does not depend on the image"):
        receptive_field(network(Constant()), random_inputs(1, 4, 4), 'backbone')
    with pytest.raises(ConfigError, match='no image'):
        receptive_field(network(Constant()), [], 'backbone')


def test_the_drawing_names_the_networks_and_the_squares():
    one = ReceptiveField(np.ones((9, 9)), (4, 4), 'backbone')
    figure = draw_receptive_fields([('plain', one), ('coc', one)])
    assert [ax.get_title() for ax in figure.axes[:2]] == ['plain', 'coc']
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ['30% in 5 px', '50% in 7 px', '99% in 9 px']


@pytest.fixture(scope='module')
def lenet(tmp_path_factory) -> tuple[str, str]:
    pytest.importorskip('mmpretrain')
    config = 'configs/mnist/lenet5_kerv.py'
    init_default_scope('mmpretrain')
    path = tmp_path_factory.mktemp('erf') / 'lenet.pth'
    torch.manual_seed(0)
    torch.save(MODELS.build(Config.fromfile(ROOT / config).model).state_dict(), path)
    return config, str(path)


def test_the_images_of_a_folder_are_used(lenet, tmp_path):
    import mmcv

    from mmkerv.deploy.trained_model import load_trained

    cfg, model = load_trained(*lenet)
    for number in range(3):
        mmcv.imwrite(np.full((28, 28), 50 * number, np.uint8), str(tmp_path / f'{number}.png'))
    inputs = [x for x, _ in receptive_inputs(model, cfg, 2, (28, 28), find_images([tmp_path]))]
    assert [x.shape for x in inputs] == [(1, 1, 28, 28)] * 2
    assert float(inputs[0].mean()) < float(inputs[1].mean())


def test_the_tool_writes_the_picture(lenet, tmp_path):
    out = tmp_path / 'erf.svg'
    done = run_tool(TOOL, *lenet, '--shape', 28, 28, '--num', 2, '--compare', *lenet, '--save-path', out)
    assert done.status == 0, done.err
    assert done.out.count('backbone.layer2') == 2
    assert '<svg' in out.read_text()
    arrays = np.load(out.with_suffix('.npz'))
    assert arrays['field'].shape == (28, 28)
    np.testing.assert_array_equal(arrays['field'], arrays['field_compare'])
    # Two 5x5 kernels, each followed by a pooling, have a field of 16 x 16 pixels.
    assert np.flatnonzero(arrays['field'].any(0)).size <= 16
    assert arrays['squares'][-1, 0] <= 17


def test_the_size_is_that_of_the_test_pipeline(tmp_path):
    config = 'configs/demo/resnet18_shapes.py'
    _, model = load_trained(config, None)
    torch.save(model.state_dict(), tmp_path / 'net.pth')
    done = run_tool(TOOL, config, tmp_path / 'net.pth', '--num', 1, '--save-path', tmp_path / 'erf.png')
    assert done.status == 0, done.err
    assert np.load(tmp_path / 'erf.npz')['field'].shape == (64, 64)


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (('--target-layers', 'backbone.layer3'), "no layer 'backbone.layer3'; the nearest names are backbone.layer2"),
        (('--target-layers', 'backbone.fc'), "layer 'backbone.fc' returns no feature map"),
        (('--images', 'absent'), "--images 'absent' does not exist"),
        (('--save-path', 'erf.doc'), "must end in .png, .svg, .pdf, .jpg, got 'erf.doc'"),
        (('--shape', '30', '30'), 'takes images of 28x28'),
        (('--compare', 'configs/imagenet/resnet18.py', 'absent.pth'), "'absent.pth'"),
    ],
)
def test_bad_input_ends_in_one_line(lenet, tmp_path, arguments, expected):
    common = ('--save-path', tmp_path / 'out' / 'erf.png', '--num', 1, '--shape', 28, 28)
    assert expected in refused(TOOL, *lenet, *common, *arguments)
    assert not (tmp_path / 'out').exists()
