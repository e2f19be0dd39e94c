import logging

import pytest
import torch
from torch import nn

from mmkerv.engine.hooks.kervolution_guard_hook import KervolutionGuardHook
from mmkerv.errors import DeadKernelError, KervolutionOverflowError
from mmkerv.ops import KervConv2d
from tests.engine.tiny_runner import TinyModel, tiny_runner

GUARD = dict(type='mmkerv.KervolutionGuardHook')


class Two(TinyModel):
    """Two kervolutions, the second of which gets inputs times ``scale``."""

    def __init__(self, scale: float = 1.0, **options):
        super().__init__(KervConv2d, **options)
        self.second = KervConv2d(3, 8, 3, padding=1, **options)
        self.scale = scale

    def forward(self, inputs, target=None, mode='tensor'):
        outputs = super().forward(inputs, target, mode)
        extra = self.second(input=inputs * self.scale).mean()
        return {'loss': outputs['loss'] + extra} if mode == 'loss' else outputs


def largest_product(model: Two) -> float:
    from tests.engine.tiny_runner import RandomImages

    conv, x = model.second, RandomImages().images[:2] * model.scale
    return float(nn.functional.conv2d(x, conv.weight, None, 1, 1).detach().abs().max())


def test_names_the_layer_the_iteration_and_the_largest_product(tmp_path):
    model = Two(scale=1e14)
    expected = largest_product(model)
    with pytest.raises(KervolutionOverflowError) as caught:
        tiny_runner(tmp_path, model, custom_hooks=[GUARD]).train()
    message = str(caught.value)
    assert "'second'" in message and 'iteration 1,' in message and f'largest |s| {expected:.3g}' in message
    assert "'conv'" not in message and 'clip' in message
    assert not list(tmp_path.glob('**/*.pth'))


def test_overflow_is_reported_in_its_iteration(tmp_path):
    model, passes = Two(), []

    def explode(layer, inputs):
        passes.extend([layer] * layer.training)
        return (inputs[0] * (1e14 if layer.training and len(passes) == 3 else 1),)

    model.conv.register_forward_pre_hook(explode)
    with pytest.raises(KervolutionOverflowError, match=r"'conv'.*iteration 3,"):
        tiny_runner(tmp_path, model, custom_hooks=[GUARD], train_cfg=dict(by_epoch=True, max_epochs=4)).train()


def test_warning_is_logged_once_and_training_goes_on(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmkerv.engine.hooks.kervolution_guard_hook.log', lambda message, level: said.append((level, message))
    )
    runner = tiny_runner(tmp_path, Two(scale=1e14), custom_hooks=[dict(**GUARD, action='warn')])
    runner.train()
    assert runner.iter == 2
    # The first step makes the weights of both layers NaN.
    assert [level for level, _ in said] == [logging.WARNING] * len(said)
    assert sum("'second'" in message for _, message in said) == 1


@pytest.mark.parametrize('kernel', ['polynomial', 'gaussian', 'l2'])
def test_finite_training_is_not_reported_and_the_layers_are_unchanged(tmp_path, kernel):
    model = Two(kernel=kernel)
    tiny_runner(tmp_path, model, custom_hooks=[GUARD]).train()
    for layer in (model.conv, model.second):
        assert not layer.watched and not layer._forward_hooks


def test_training_is_the_same_with_the_guard(tmp_path):
    results = []
    for hooks in ([], [GUARD]):
        model = Two()
        tiny_runner(tmp_path / str(len(hooks)), model, custom_hooks=hooks).train()
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], value) for key, value in results[1].items())


def test_interval_skips_iterations(tmp_path):
    with pytest.raises(KervolutionOverflowError, match='iteration 2,'):
        tiny_runner(tmp_path, Two(scale=1e14), custom_hooks=[dict(**GUARD, interval=2)]).train()


def test_no_kervolution_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='no KervConv'):
        tiny_runner(tmp_path, TinyModel(), custom_hooks=[GUARD]).train()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'action': 'halt'}, "action must be one of 'stop', 'warn'"), ({'interval': 0}, 'interval')],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        KervolutionGuardHook(**arguments)


def dying(kernel='gaussian', gamma=1.0, distance=0.0, **options) -> Two:
    """Two kervolutions; the filters of the second are as far from its input as ``distance`` says."""
    model = Two(kernel=kernel, gamma=gamma, **options)
    for i, shift in enumerate(distance if isinstance(distance, list) else [distance] * 8):
        model.second.weight.data[i] += shift
    return model


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('kernel', ['gaussian', 'laplacian'])
def test_dead_kernels_are_named(tmp_path, kernel, bias):
    with pytest.raises(DeadKernelError, match=rf"8 of 8 filters of 'second' .*{kernel}.*gamma=1\).*iteration 1.*auto"):
        tiny_runner(tmp_path, dying(kernel, distance=40.0, bias=bias), custom_hooks=[GUARD]).train()
    assert not list(tmp_path.glob('**/*.pth'))


def test_some_dead_filters_are_reported_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmkerv.engine.hooks.kervolution_guard_hook.log', lambda message, level: said.append(message))
    runner = tiny_runner(tmp_path, dying(distance=[40.0] * 3), custom_hooks=[GUARD])
    runner.train()
    assert runner.iter == 2 and len(said) == 1 and "3 of 8 filters of 'second'" in said[0]


def test_dead_kernels_are_reported_by_a_warning(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmkerv.engine.hooks.kervolution_guard_hook.log', lambda message, level: said.append(message))
    tiny_runner(tmp_path, dying(distance=40.0), custom_hooks=[dict(**GUARD, action='warn')]).train()
    assert len(said) == 1 and "8 of 8 filters of 'second'" in said[0]


@pytest.mark.parametrize('distance', [0.6, 0.9])
def test_small_responses_behind_a_bias_are_not_dead(tmp_path, monkeypatch, distance):
    """exp(-30) + 1000 is rounded to 1000."""
    monkeypatch.setattr('mmkerv.engine.hooks.kervolution_guard_hook.log', lambda message, level: pytest.fail(message))
    model = dying(distance=distance)
    model.second.bias.data += 1000.0
    tiny_runner(tmp_path, model, custom_hooks=[GUARD]).train()


@pytest.mark.parametrize('kernel', ['l2', 'laplacian', 'gaussian', 'cauchy', 'rational quadratic', 'euclidean'])
def test_gradients_are_finite_where_the_distance_is_zero(kernel):
    conv = KervConv2d(2, 3, 3, kernel=kernel, bias=False)
    conv.weight.data.copy_(torch.arange(18.0).view(2, 3, 3).expand(3, 2, 3, 3))
    x = torch.arange(18.0).view(1, 2, 3, 3).requires_grad_()
    conv(x).sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(conv.weight.grad).all()
    assert x.grad.abs().max() < 1e-6, 'it is an extremum of every kernel, or has the subgradient 0'
