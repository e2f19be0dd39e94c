import logging

import pytest
import torch
from torch import nn

from mmkerv.engine.hooks.loss_guard_hook import LossGuardHook
from mmkerv.errors import LossExplosionError
from tests.engine.tiny_runner import TinyModel, tiny_runner

GUARD = dict(type='mmkerv.LossGuardHook')


class Deep(TinyModel):
    """TinyModel with two more layers and a loss multiplied by ``factor``."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor
        self.second = nn.Conv2d(3, 8, 3)
        self.third = nn.Linear(8, 1)

    def forward(self, inputs, target=None, mode='tensor'):
        outputs = super().forward(inputs, target, mode)
        extra = self.third(self.second(inputs).mean((2, 3))).square().mean()
        return {'loss': (outputs['loss'] + extra) * self.factor} if mode == 'loss' else outputs


def explode(layer, iteration, scale):
    """Let a layer's output grow in one iteration of training."""
    passes = []

    def grow(module, inputs, output):
        passes.append(module.training)
        return output * (scale if sum(passes) == iteration and module.training else 1)

    layer.register_forward_hook(grow)


@pytest.mark.parametrize('scale', [float('nan'), float('inf'), 1e30])
def test_names_the_first_layer_that_is_not_finite(tmp_path, scale):
    model = Deep()
    explode(model.second, 3, scale)
    with pytest.raises(LossExplosionError) as caught:
        tiny_runner(tmp_path, model, custom_hooks=[GUARD], train_cfg=dict(by_epoch=True, max_epochs=4)).train()
    message = str(caught.value)
    assert 'at iteration 3 ' in message and "'conv'" not in message and 'clip' in message
    # A finite output of 1e30 gives an infinite square.
    assert ("output is not finite is 'second'" if scale != 1e30 else "the largest 'second' with |y| = ") in message
    assert not list(tmp_path.glob('**/epoch_2.pth')), 'nothing is written of what the explosion has spoilt'


def test_names_the_largest_where_all_are_finite(tmp_path):
    model = Deep()
    explode(model.second, 2, 1e6)
    with pytest.raises(
        LossExplosionError, match=r"loss = .*threshold 1000.*largest 'second' with \|y\| = [\d.]+e\+0[56]"
    ):
        tiny_runner(tmp_path, model, custom_hooks=[dict(GUARD, threshold=1e3)]).train()


def test_negative_infinity_is_not_finite(tmp_path):
    with pytest.raises(LossExplosionError, match='loss = -inf at iteration 1 '):
        tiny_runner(tmp_path, Deep(float('-inf')), custom_hooks=[GUARD]).train()


def test_message_names_the_iteration_that_was_checked(tmp_path):
    model = Deep()
    explode(model.second, 3, 1e30)
    with pytest.raises(LossExplosionError, match=r'at iteration 3 .*at iteration 2, the last that was checked'):
        length = dict(by_epoch=True, max_epochs=4)
        tiny_runner(tmp_path, model, custom_hooks=[dict(GUARD, interval=2)], train_cfg=length).train()


def test_warns_once_in_a_hundred_iterations(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmkerv.engine.hooks.loss_guard_hook.log', lambda message, level: said.append((level, message)))
    runner = tiny_runner(
        tmp_path,
        Deep(1e9),
        custom_hooks=[dict(GUARD, action='warn')],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        train_cfg=dict(by_epoch=True, max_epochs=51, val_interval=99),
    )
    runner.train()
    assert runner.iter == 102 and [level for level, _ in said] == [logging.WARNING] * 2


def test_finite_training_is_the_same_with_the_guard(tmp_path):
    results = []
    for hooks in ([], [GUARD]):
        model = Deep()
        tiny_runner(tmp_path / str(len(hooks)), model, custom_hooks=hooks).train()
        assert not any(module._forward_hooks for module in model.modules())
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], value) for key, value in results[1].items())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'threshold': 0}, 'threshold'), ({'action': 'halt'}, 'action must be one of'), ({'interval': 0}, 'interval')],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LossGuardHook(**arguments)
