"""The tools' own evaluations of a network do not warn that kernels are computed at every call."""

import warnings
from pathlib import Path

import pytest

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
pytest.importorskip('mmdet')
pytest.importorskip('matplotlib')

import torch

from mmkerv.analysis.complexity import complexity
from mmkerv.analysis.layer_report import layer_report
from mmkerv.analysis.predictions import predictions
from mmkerv.cli.report.predictions import predicted_scenes
from mmkerv.datasets.shapes import ShapesSettings, write_shapes
from mmkerv.deploy.comparison import compare, inference_times
from mmkerv.deploy.model_outputs import sample_inputs
from mmkerv.deploy.trained_model import load_trained
from mmkerv.engine.config.patches import patched
from mmkerv.image_files import find_images
from mmkerv.ops.core import generated
from mmkerv.visualization.class_activation import explain_image
from mmkerv.visualization.receptive_field import receptive_field, receptive_inputs

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs' / 'demo' / 'resnet18_coc_shapes.py')
# Calls that a tool may make of a network without warning: to try what it computes, and to count operations.
FEW = 8


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """Config, network, its checkpoint, and a folder of more than a few images."""
    folder = tmp_path_factory.mktemp('network')
    write_shapes(folder / 'data', ShapesSettings(num_train=3, num_val=2 * FEW, size=64), progress=False)
    with patched():
        cfg, model = load_trained(CONFIG, None, {'data_root': str(folder / 'data')})
    checkpoint = folder / 'a.pth'
    torch.save({'state_dict': model.state_dict()}, checkpoint)
    return cfg, model, checkpoint, folder / 'data' / 'val2017'


def times(cfg, model, checkpoint, images):
    inference_times([model], *next(sample_inputs(model, (32, 32))))


def both(cfg, model, checkpoint, images):
    # The network with itself.
    checkpoint.with_suffix('.py').write_text(cfg.pretty_text)
    compare(CONFIG, checkpoint, checkpoint, images, (32, 32))


def scenes(cfg, model, checkpoint, images):
    predicted_scenes(cfg, model, 2 * FEW)


def prediction(cfg, model, checkpoint, images):
    list(predictions(cfg, model, find_images([images])))


def score_cam(cfg, model, checkpoint, images):
    pytest.importorskip('pytorch_grad_cam')
    explain_image(model, cfg, find_images([images])[0], method='ScoreCAM')


def effective_field(cfg, model, checkpoint, images):
    receptive_field(model, receptive_inputs(model, cfg, 2 * FEW, (32, 32)), 'backbone.layer4')


def operations(cfg, model, checkpoint, images):
    complexity(model, (32, 32))


def layers(cfg, model, checkpoint, images):
    layer_report(model, (32, 32))


@pytest.mark.parametrize(
    'work', [times, both, scenes, prediction, score_cam, effective_field, operations, layers], ids=lambda f: f.__name__
)
def test_evaluations_of_our_own_do_not_warn(work, network, monkeypatch):
    monkeypatch.setattr(generated, 'MANY_EVALUATIONS', FEW)
    generated.warn_of_evaluations.cache_clear()
    for module in network[1].modules():
        if isinstance(module, generated.GeneratedKernel):
            module._evaluations = 0
    with warnings.catch_warnings(record=True) as seen, patched():
        warnings.simplefilter('always')
        work(*network)
    assert not [warning for warning in seen if 'frozen_kernels' in str(warning.message)]
