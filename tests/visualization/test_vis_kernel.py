"""The tools ``vis_kernel.py`` and ``vis_response.py``."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmpretrain')
pytest.importorskip('matplotlib')

import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmkerv.engine.config.read import load_config
from mmkerv.ops import CoCConv2d, CondConv2d
from mmkerv.visualization import image_figure, kernel_arrays, response_arrays
from tests.ops.test_fdconv import moved as moved_layer

ROOT = Path(__file__).resolve().parents[2]
KERNEL, RESPONSE = (ROOT / 'tools' / 'visualization' / f'vis_{name}.py' for name in ('kernel', 'response'))
CONFIG = ROOT / 'configs' / 'mnist' / 'lenet5_kerv.py'
LAYERS = ['backbone.layer1.0', 'backbone.layer2.0']


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs a tool in this process and returns its status or message, and its output."""

    def run_tool(tool: Path, *arguments: object) -> tuple[object, str]:
        monkeypatch.setattr(sys, 'argv', list(map(str, (tool, *arguments))))
        monkeypatch.setattr(sys, 'path', list(sys.path))
        try:
            runpy.run_path(str(tool), run_name='__main__')
        except SystemExit as end:
            status = end.code
        else:
            status = 0
        output = capsys.readouterr()
        return status, output.out + output.err

    return run_tool


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    return MODELS.build(load_config(str(ROOT / CONFIG)).model)


@pytest.fixture(scope='module')
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'lenet.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return path


def test_every_operator_is_drawn_on_a_headless_machine(model, checkpoint, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ('DISPLAY', 'WAYLAND_DISPLAY', 'MPLBACKEND')}
    arguments = (KERNEL, CONFIG, checkpoint, '--save-path', tmp_path, '--arrays', tmp_path / 'kernels.npz')
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**environment, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = [tmp_path / f'{layer}.png' for layer in LAYERS]
    assert [line for line in done.stdout.splitlines() if line.startswith('wrote ')] == [
        f'wrote {file}' for file in [*files, tmp_path / 'contact_sheet.png', tmp_path / 'kernels.npz']
    ]
    for file in [*files, tmp_path / 'contact_sheet.png']:
        with Image.open(file) as image:
            assert image.format == 'PNG' and len(image.convert('RGB').getcolors(1 << 20)) > 20
    with np.load(tmp_path / 'kernels.npz') as arrays:
        assert set(arrays) == {f'{layer}/kernel' for layer in LAYERS}
        for layer in LAYERS:
            expected = kernel_arrays(model.get_submodule(layer))['kernel']
            assert np.array_equal(arrays[f'{layer}/kernel'], expected)


def test_the_spectrum_of_one_layer_is_written_as_svg(run, checkpoint, tmp_path):
    out = tmp_path / 'new' / 'spectrum.svg'
    layer = ('--target-layers', f'model.{LAYERS[0]}')
    status, output = run(KERNEL, CONFIG, checkpoint, *layer, '--what', 'spectra', '--topk', 2, '--save-path', out)
    assert status == 0 and f'wrote {out}' in output
    assert [file.name for file in out.parent.iterdir()] == ['spectrum.svg']
    assert '<svg' in out.read_text()[:1000]


def test_responses_are_drawn_and_saved(run, model, checkpoint, tmp_path):
    line = ('--target-layers', LAYERS[1], '--line', 'patches', '--seed', 5, '--topk', 3)
    files = ('--save-path', tmp_path, '--format', 'svg', '--arrays', tmp_path / 'r.npz')
    status, output = run(RESPONSE, CONFIG, checkpoint, *line, *files)
    assert status == 0, output
    assert (tmp_path / f'{LAYERS[1]}_response.svg').stat().st_size > 10000
    expected = response_arrays(model.get_submodule(LAYERS[1]), topk=3, line='patches', seed=5)
    with np.load(tmp_path / 'r.npz') as arrays:
        assert {name: arrays[f'{LAYERS[1]}/{name}'].tolist() for name in expected} == {
            name: values.tolist() for name, values in expected.items()
        }


@pytest.mark.parametrize(
    ('tool', 'arguments', 'expected'),
    [
        (KERNEL, ('--target-layers', 'backbone.layer1.O'), ["no layer 'backbone.layer1.O'", LAYERS[0]]),
        (KERNEL, ('--save-path', '{out}/one.png'), ['is one file, and there are 2 pictures']),
        (RESPONSE, ('--target-layers', 'head'), ["layer 'head' has no kervolution", LAYERS[0]]),
        (RESPONSE, ('--cfg-options', 'model.head.num_classes=7'), ['lenet.pth', 'head.fc.weight']),
    ],
    ids=['unknown layer', 'one file', 'no kervolution', 'another network'],
)
def test_bad_input_ends_in_one_line(run, checkpoint, tmp_path, tool, arguments, expected):
    message, output = run(tool, CONFIG, checkpoint, *(argument.format(out=tmp_path) for argument in arguments))
    assert str(message).startswith('error: ') and '\n' not in message
    assert all(part in message for part in expected), message
    assert 'wrote' not in output and not list(tmp_path.iterdir())


def test_a_model_without_operators_ends_in_one_line(run, tmp_path):
    config = ROOT / 'configs' / 'mnist' / 'lenet5.py'
    init_default_scope('mmpretrain')
    torch.save(MODELS.build(load_config(str(config)).model).state_dict(), tmp_path / 'plain.pth')
    for tool, expected in (
        (KERNEL, 'has no operator of mmkerv'),
        (RESPONSE, 'has no kervolution; choose a config with'),
    ):
        message, _ = run(tool, config, tmp_path / 'plain.pth', '--save-path', tmp_path / 'out')
        assert str(message).startswith('error: the model (ImageClassifier)') and expected in message
    assert not (tmp_path / 'out').exists()
    # Plain convolutions are drawn if they are named, as in the left half of Figure 9 of the CoC paper.
    status, _ = run(KERNEL, config, tmp_path / 'plain.pth', '--target-layers', LAYERS[0], '--save-path', tmp_path)
    assert status == 0 and (tmp_path / f'{LAYERS[0]}.png').is_file()


@pytest.mark.parametrize(('tool', 'flag'), [(KERNEL, '--topk'), (RESPONSE, '--topk'), (RESPONSE, '--reach')])
def test_a_number_out_of_range_is_refused_at_once(run, tool, flag, tmp_path):
    (tmp_path / 'empty.pth').touch()
    status, output = run(tool, CONFIG, tmp_path / 'empty.pth', flag, 0)
    assert status == 2 and f'{flag} must be' in output


@pytest.fixture(scope='module')
def dynamic(tmp_path_factory):
    """A LeNet with an operator of each kind, its config and checkpoint, and an image."""
    folder = tmp_path_factory.mktemp('dynamic')
    config, weights, image = folder / 'lenet.py', folder / 'lenet.pth', folder / 'digit.png'
    first = "dict(type='mmkerv.CondConv', experts=3, spatial=True)"
    second = "dict(type='mmkerv.FDConv', replace_all=True)"
    config.write_text(f"_base_ = '{CONFIG}'\nmodel = dict(backbone=dict(layers=({first}, {second})))\n")
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    model = MODELS.build(load_config(str(config)).model).eval()
    for block in (model.backbone.layer1, model.backbone.layer2):
        moved_layer(block[0])
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, weights)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)).save(image)
    return model, config, weights, image


def test_what_an_image_gets_is_drawn(run, dynamic, tmp_path):
    model, config, weights, image = dynamic
    arguments = (config, weights, '--image', image, '--save-path', tmp_path, '--arrays', tmp_path / 'image.npz')
    status, output = run(KERNEL, *arguments)
    assert status == 0, output
    for layer in LAYERS:
        assert (tmp_path / f'{layer}_digit.png').stat().st_size > 10000
    with np.load(tmp_path / 'image.npz') as arrays:
        found = {key: arrays[key] for key in arrays}
    names = {'backbone.layer1.0': ['kernel', 'routing', 'taps']}
    names['backbone.layer2.0'] = ['bands', 'channels', 'filters', 'kernel', 'local', 'maps', 'taps']
    assert sorted(found) == [f'{layer}/{name}' for layer in LAYERS for name in names[layer]]
    # The kernel is what the gates make of the experts, and the image's features reach the second layer.
    layer, first = model.backbone.layer1[0], {name: found[f'{LAYERS[0]}/{name}'] for name in names[LAYERS[0]]}
    experts = layer.experts.detach().numpy().reshape(3, *layer.weight.shape)
    kernel = layer.weight.detach().numpy() + np.tensordot(first['routing'] - 0.5, experts, 1)
    assert np.allclose(first['kernel'], kernel * first['taps'], atol=1e-5)
    assert found[f'{LAYERS[1]}/maps'].shape[0] == 3 and np.ptp(found[f'{LAYERS[1]}/maps']) > 0
    status, output = run(KERNEL, config, weights, '--save-path', tmp_path)
    assert status == 0 and (tmp_path / 'backbone.layer1.0.png').exists()


def test_an_image_is_drawn_where_layers_get_keywords_and_no_samples(run, dynamic, tmp_path, monkeypatch):
    _, config, weights, image = dynamic

    def call(model, inputs, samples):
        layers, x = (model.backbone.layer1[0], model.backbone.layer2[0]), torch.rand(1, 6, 5, 5)
        layers[0](inputs[:0])
        layers[0](routing=torch.tensor([[0.5, 0.6, 0.7]]), input=inputs)
        layers[1](x[:0])

    monkeypatch.setattr('mmkerv.visualization.feature_maps.forward', call)
    arguments = ('--image', image, '--save-path', tmp_path, '--arrays', tmp_path / 'image.npz')
    status, output = run(KERNEL, config, weights, *arguments)
    assert status == 0 and f'{LAYERS[1]}: the image does not pass through it' in output, output
    with np.load(tmp_path / 'image.npz') as arrays:
        assert {key.rpartition('/')[0] for key in arrays} == {LAYERS[0]}
        assert np.allclose(arrays[f'{LAYERS[0]}/routing'], [0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--image', 'missing.png'), "image 'missing.png' does not exist"),
        (('--image', 'missing.png', '--topk', '3'), '--topk is for pictures without --image'),
        (('--image', 'missing.png', '--what', 'spectra'), '--what is for pictures without --image'),
        (('--image', '{image}', '--target-layers', 'head'), 'has no operator whose kernel depends on the image'),
    ],
    ids=['missing', 'topk', 'spectra', 'no operator'],
)
def test_bad_input_beside_an_image_ends_in_one_line(run, dynamic, arguments, message):
    _, config, weights, image = dynamic
    status, output = run(KERNEL, config, weights, *(word.format(image=image) for word in arguments))
    assert message in str(status) + output


def test_other_operators_have_no_picture_of_an_image():
    with pytest.raises(TypeError, match='has the same kernel for every image'):
        image_figure(CoCConv2d(4, 8, 3), torch.randn(1, 4, 5, 5))
    with pytest.raises(ValueError, match='shares'):
        image_figure(CondConv2d(4, 8, 3), torch.randn(1, 4, 5, 5), shares=(0, 1))
