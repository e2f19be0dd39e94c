"""``KernelVisualizationHook`` in runs of a tiny model."""

import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('matplotlib')

import numpy as np
from PIL import Image

from mmkerv.errors import ConfigError
from mmkerv.ops import DepthwiseSeparableConv2d
from mmkerv.visualization import kernel_figure
from mmkerv.visualization.tiles import pixels
from tests.engine.tiny_runner import TinyModel, tiny_runner

ITERATIONS = {'type': 'IterBasedTrainLoop', 'max_iters': 5, 'val_interval': 5}


def train(tmp_path, hook=None, model=None, **settings):
    hooks = [] if hook is None else [dict(type='mmkerv.KernelVisualizationHook', **hook)]
    backends = [dict(type='LocalVisBackend')]
    runner = tiny_runner(
        tmp_path, model, custom_hooks=hooks, visualizer=dict(type='Visualizer', vis_backends=backends), **settings
    )
    runner.train()
    return runner


def pictures(tmp_path) -> dict[str, np.ndarray]:
    return {file.name: np.asarray(Image.open(file)) for file in sorted(tmp_path.rglob('vis_image/*.png'))}


def test_pictures_every_second_epoch(tmp_path):
    model = TinyModel(super_init='kaiming')
    start = pixels(kernel_figure(model.conv, 'conv'))
    train(tmp_path, {'interval': 2}, model, train_cfg={'by_epoch': True, 'max_epochs': 5, 'val_interval': 5})
    found = pictures(tmp_path)
    assert list(found) == ['kernels.conv_0.png', 'kernels.conv_2.png', 'kernels.conv_4.png']
    assert np.array_equal(found['kernels.conv_0.png'], start)
    assert not np.array_equal(found['kernels.conv_4.png'], found['kernels.conv_2.png'])


def test_the_last_picture_is_of_the_trained_kernels(tmp_path):
    runner = train(tmp_path, {'target_layers': 'conv', 'topk': 1})
    expected = pixels(kernel_figure(runner.model.conv, 'conv', topk=1))
    assert np.array_equal(pictures(tmp_path)['kernels.conv_1.png'], expected)


def test_pictures_every_second_iteration(tmp_path):
    train(tmp_path, {'interval': 2, 'by_epoch': False}, train_cfg=ITERATIONS)
    assert list(pictures(tmp_path)) == ['kernels.conv_0.png', 'kernels.conv_2.png', 'kernels.conv_4.png']


def test_counting_epochs_is_refused_in_a_run_without_epochs(tmp_path):
    with pytest.raises(ValueError, match='by_epoch=False'):
        train(tmp_path, {'interval': 2}, train_cfg=ITERATIONS)


def test_the_hook_does_not_change_the_training(tmp_path):
    weights = [
        train(tmp_path / str(number), hook, TinyModel(super_init='kaiming')).model.state_dict()
        for number, hook in enumerate([None, {'interval': 1}])
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_only_the_first_process_draws(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    monkeypatch.setattr('mmkerv.visualization.kernel_figures.kernel_figure', lambda *args: drawn.append(args))
    train(tmp_path, {}, val_dataloader=None, val_cfg=None, val_evaluator=None)
    assert drawn == []


def test_separable_operators_are_drawn(tmp_path):
    train(tmp_path, {}, TinyModel(DepthwiseSeparableConv2d))
    assert list(pictures(tmp_path)) == ['kernels.conv_0.png', 'kernels.conv_1.png']


def test_tensorboard_gets_the_pictures(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hooks = [dict(type='mmkerv.KernelVisualizationHook')]
    visualizer = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])
    runner = tiny_runner(tmp_path, custom_hooks=hooks, visualizer=visualizer)
    runner.train()
    runner.visualizer.close()
    (file,) = tmp_path.rglob('events.out.*')
    events = EventAccumulator(str(file)).Reload()
    assert [event.step for event in events.Images('kernels.conv')] == [0, 1]


@pytest.mark.parametrize(
    ('hook', 'conv', 'error', 'message'),
    [
        ({'interval': 0}, None, ValueError, 'interval'),
        ({'topk': 0}, None, ValueError, 'topk'),
        ({'by_epoch': 1}, None, TypeError, 'by_epoch'),
        ({'target_layers': ['cnv']}, None, ConfigError, "no layer 'cnv'; the nearest names are conv"),
        ({}, nn.Conv2d, ConfigError, 'no operator of mmkerv'),
    ],
)
def test_bad_input_is_refused(tmp_path, hook, conv, error, message):
    with pytest.raises(error, match=message):
        train(tmp_path, hook, None if conv is None else TinyModel(conv))


def test_the_hook_is_imported_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib.figure'] = None; import mmkerv.visualization.hook as h; "
        "print(h.KernelVisualizationHook.__name__, [m for m in sys.modules if m.startswith('mmkerv.visualization.')])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("KernelVisualizationHook ['mmkerv.visualization.hook']"), (
        done.stdout + done.stderr
    )
