"""FiniteFeaturesHook: names the stage and layer in which a backbone's features stop being finite."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip('mmcv')

from mmkerv.engine import FiniteFeaturesHook
from mmkerv.engine.hooks import finite_features_hook
from mmkerv.engine.hooks.finite_features_hook import first_not_finite
from mmkerv.errors import ConfigError, NonFiniteFeaturesError
from mmkerv.models import UniRepLKNet

ARCH = {'depths': (1, 1, 2, 1), 'channels': 8, 'kernel_sizes': (3, 13, (13, 3), 13)}


@pytest.fixture
def watched():
    """A runner of a detector, as far as the hook sees it."""
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = UniRepLKNet(ARCH, out_indices=(0, 1, 2, 3), gap_before_final_norm=False).eval()
    return SimpleNamespace(model=model)


@torch.no_grad()
def test_features_that_overflow_are_found_in_their_stage(watched):
    """The case of the public issue: the features of the last stages leave the range of the type."""
    hook = FiniteFeaturesHook()
    hook.before_run(watched)
    net = watched.model.backbone
    images = torch.randn(1, 3, 96, 32)
    net(images)
    net.stages[2][1].gamma.fill_(1e30)
    net.stages[2][1].pwconv2[2].weight.fill_(1e30)
    with pytest.raises(NonFiniteFeaturesError) as error:
        net(images)
    message = str(error.value)
    assert 'output 2 of the backbone UniRepLKNet is not finite for an input of (1, 3, 96, 32), float32' in message
    assert "It begins in 'stages.2.1." in message
    assert 'in stage 3, whose largest input is' in message and 'bfloat16' in message
    hook.after_run(watched)
    net(images)


@torch.no_grad()
def test_a_warning_is_logged_once_for_each_layer(watched, monkeypatch):
    lines = []
    monkeypatch.setattr(finite_features_hook, 'log', lambda message, level: lines.append(message))
    hook = FiniteFeaturesHook(action='warn')
    hook.before_run(watched)
    watched.model.backbone.downsample_layers[0][0].weight.fill_(float('nan'))
    for _ in range(2):
        watched.model.backbone(torch.randn(1, 3, 64, 64))
    (line,) = lines
    assert "'downsample_layers.0.0' (Conv2d, in the stem," in line


def test_looking_for_the_layer_changes_nothing(watched):
    net = watched.model.backbone.train()
    with torch.no_grad():
        net.stages[2][1].gamma.fill_(float('nan'))
    before, state = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    assert first_not_finite(net, (torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),)) is not None
    assert all(torch.equal(value, net.state_dict()[name]) or value.isnan().any() for name, value in before.items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert 'num_batches_tracked' in ' '.join(before)


def test_bad_settings_are_named(watched):
    with pytest.raises(ValueError, match='action'):
        FiniteFeaturesHook(action='ignore')
    watched.model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r'watches model.backbone, which Linear does not have'):
        FiniteFeaturesHook().before_run(watched)
