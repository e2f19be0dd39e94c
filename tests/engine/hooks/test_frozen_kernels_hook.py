import copy

import pytest
import torch
from mmengine.hooks import Hook

from mmkerv.ops import CoCConv2d, switch_to_deploy
from tests.engine.tiny_runner import Predictions, RandomImages, TinyModel, tiny_runner

FROZEN = dict(type='mmkerv.FrozenKernelsHook')
EMA = dict(type='EMAHook', momentum=0.5)
# Hooks of the same or another priority, given before or after ours.
ORDERS = pytest.mark.parametrize('hooks', [[FROZEN], [FROZEN, EMA], [EMA, FROZEN]], ids=['alone', 'first', 'last'])


@pytest.fixture
def computed(monkeypatch):
    """A list with an item for each computed kernel: whether the model was in training."""
    calls, kernel = [], CoCConv2d._kernel

    def counted(operator):
        calls.append(operator.training)
        return kernel(operator)

    monkeypatch.setattr(CoCConv2d, '_kernel', counted)
    return calls


def moving() -> TinyModel:
    """A network whose super layers are not the identity."""
    return TinyModel(super_init='kaiming')


def is_frozen(model) -> bool:
    return any(m._frozen_kernel is not None or m._frozen_blocks for m in model.modules() if isinstance(m, CoCConv2d))


def epochs(number: int) -> dict:
    return dict(train_cfg=dict(by_epoch=True, max_epochs=number, val_interval=1))


@ORDERS
def test_kernels_are_computed_once_per_evaluation(tmp_path, computed, hooks):
    runner = tiny_runner(tmp_path, moving(), custom_hooks=hooks, **epochs(3))
    runner.train()
    assert computed == [True, True, False] * 3, 'two batches of training, then one computation for two of validation'
    assert not is_frozen(runner.model)
    computed.clear()
    runner.val()
    assert computed == [False]


def test_kernels_are_computed_for_every_batch_without_the_hook(tmp_path, computed):
    tiny_runner(tmp_path, moving(), **epochs(1)).train()
    assert computed == [True, True, False, False]


@ORDERS
def test_validation_uses_the_averaged_or_trained_weights(tmp_path, hooks):
    """A plain convolution with the kernel of the validated weights, folded by hand, predicts the same."""
    expected = []

    class Fold(Hook):
        priority = 'LOWEST'

        def before_val_epoch(self, runner):
            model = copy.deepcopy(runner.model).eval()
            switch_to_deploy(model)
            with torch.no_grad():
                expected.append(model(RandomImages().images).tolist())

    metric = Predictions()
    runner = tiny_runner(tmp_path, moving(), metric, custom_hooks=[*hooks, Fold()], **epochs(3))
    runner.train()
    torch.testing.assert_close(metric.seen, expected, rtol=1e-4, atol=1e-5)
    assert len({round(epoch[0], 4) for epoch in expected}) == 3, 'the weights moved between the evaluations'

    runner.model.eval()
    with torch.no_grad():
        raw = runner.model(RandomImages().images).tolist()
    averaged = EMA in hooks
    assert (max(abs(a - b) for a, b in zip(raw, metric.seen[-1])) > 1e-3) == averaged


@ORDERS
def test_other_hooks_see_the_training_weights_after_an_evaluation(tmp_path, hooks):
    seen = []

    class Look(Hook):
        priority = 'BELOW_NORMAL'

        def after_val_epoch(self, runner, metrics=None):
            fresh = copy.deepcopy(runner.model).eval()
            with torch.no_grad():
                seen.append([model(RandomImages().images) for model in (runner.model.eval(), fresh)])

    tiny_runner(tmp_path, moving(), custom_hooks=[*hooks, Look()], **epochs(2)).train()
    assert len(seen) == 2
    for used, fresh in seen:
        torch.testing.assert_close(used, fresh, rtol=1e-5, atol=1e-6)


@ORDERS
def test_training_is_the_same_with_and_without_the_hook(tmp_path, hooks):
    states = []
    for name, used in (('with', hooks), ('without', [h for h in hooks if h is not FROZEN])):
        runner = tiny_runner(tmp_path / name, moving(), custom_hooks=used, **epochs(3))
        runner.train()
        states.append(runner.model.state_dict())
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-6)
    start = moving().state_dict()
    assert not torch.equal(states[0]['conv.super_layers.0.weight'], start['conv.super_layers.0.weight'])


@ORDERS
def test_failed_evaluation_leaves_no_kernel_to_the_next_training(tmp_path, computed, hooks):
    metric = Predictions(fail=True)
    runner = tiny_runner(tmp_path, moving(), metric, custom_hooks=hooks, **epochs(2))
    with pytest.raises(ArithmeticError):
        runner.train()
    metric.fail = False
    weight = runner.model.conv.weight.detach().clone()
    computed.clear()
    runner.train_loop.run()
    assert computed[:2] == [True, True]
    assert not torch.equal(runner.model.conv.weight, weight)
    assert not is_frozen(runner.model)


def test_failed_evaluation_leaves_no_kernel_to_the_next_evaluation(tmp_path):
    metric = Predictions(fail=True)
    runner = tiny_runner(tmp_path, moving(), metric, custom_hooks=[FROZEN])
    with pytest.raises(ArithmeticError):
        runner.val()
    metric.fail = False
    with torch.no_grad():
        for parameter in runner.model.conv.super_layers.parameters():
            parameter.normal_()
    runner.val()
    fresh = copy.deepcopy(runner.model).eval()
    with torch.no_grad():
        torch.testing.assert_close(metric.seen[-1], fresh(RandomImages().images).tolist(), rtol=1e-4, atol=1e-5)


def test_kernels_are_frozen_in_an_iteration_based_loop(tmp_path, computed):
    cfg = dict(by_epoch=False, max_iters=4, val_interval=2)
    runner = tiny_runner(tmp_path, moving(), custom_hooks=[EMA, FROZEN], train_cfg=cfg)
    runner.train()
    assert computed == [True, True, False] * 2
    assert not is_frozen(runner.model)


def test_kernels_are_frozen_in_a_test(tmp_path, computed):
    metric = Predictions()
    train = dict.fromkeys(('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'))
    validation = dict.fromkeys(('val_dataloader', 'val_cfg', 'val_evaluator'))
    loader = dict(dataset=RandomImages(), batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))
    test = dict(test_dataloader={**loader, 'collate_fn': dict(type='default_collate')}, test_cfg={})
    model = moving()
    runner = tiny_runner(tmp_path, model, custom_hooks=[FROZEN], **train, **validation, **test, test_evaluator=[metric])
    runner.test()
    assert computed == [False] and not is_frozen(model)
    with torch.no_grad():
        torch.testing.assert_close(metric.seen[0], model.eval()(RandomImages().images).tolist(), rtol=1e-4, atol=1e-5)
