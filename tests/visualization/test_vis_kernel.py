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
from mmkerv.visualization import kernel_arrays, response_arrays

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
        f'wrote {file}' for file in [*files, tmp_path / 'kernels.npz']
    ]
    for file in files:
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
def test_a_number_out_of_range_is_refused_at_once(run, tool, flag):
    status, output = run(tool, CONFIG, 'absent.pth', flag, 0)
    assert status == 2 and f'{flag} must be' in output
