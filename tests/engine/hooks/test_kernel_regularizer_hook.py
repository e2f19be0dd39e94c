import pytest
import torch

pytest.importorskip('mmengine')

from torch import nn

from mmkerv.engine import KernelL2Hook
from mmkerv.ops import CKConv2d, CoCConv
from tests.engine.tiny_runner import TinyModel, tiny_runner

CONVS = pytest.mark.parametrize(
    ('conv', 'options'),
    [(CoCConv, {'super_init': 'kaiming'}), (CKConv2d, {}), (CKConv2d, {'separable': True})],
    ids=['coc', 'ck', 'separable'],
)


def gradients(tmp_path, model, hooks, **settings):
    """Gradients after one batch, without a step, and the losses that the model returned."""
    runner = tiny_runner(tmp_path, model, custom_hooks=hooks, **settings)
    runner.call_hook('before_train')
    batch = next(iter(runner.train_dataloader))
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    runner.call_hook('after_train')
    return {name: p.grad.clone() for name, p in model.named_parameters()}, losses


@CONVS
def test_adds_the_squared_norm_of_the_kernel(tmp_path, conv, options):
    plain, losses = gradients(tmp_path / 'plain', TinyModel(conv, **options), [])
    assert set(losses) == {'loss'}
    model = TinyModel(conv, **options)
    decayed, losses = gradients(tmp_path / 'l2', model, [dict(type='mmkerv.KernelL2Hook', weight=0.3)])
    kernel = model.conv._forward_kernel()
    assert losses['loss_kernel_l2'].item() == pytest.approx(0.3 * kernel.square().sum().item(), rel=1e-5)
    model.zero_grad()
    (0.3 * kernel.square().sum()).backward()
    for name, p in model.named_parameters():
        expected = plain[name] + (p.grad if p.grad is not None else 0)
        assert torch.allclose(decayed[name], expected, atol=1e-5), name


def test_prediction_and_model_are_unchanged(tmp_path):
    model = TinyModel()
    before = model(torch.ones(1, 3, 8, 8))
    gradients(tmp_path, model, [dict(type='mmkerv.KernelL2Hook', weight=1.0)])
    assert not model._forward_hooks
    assert torch.equal(model(torch.ones(1, 3, 8, 8)), before)


def test_loss_shrinks_kernels_in_a_run_and_is_logged(tmp_path):
    norms = {}
    for weight in (0.0, 0.05):
        model = TinyModel(CKConv2d)
        hooks = [dict(type='mmkerv.KernelL2Hook', weight=weight)]
        settings = dict(by_epoch=True, max_epochs=4, val_interval=9)
        runner = tiny_runner(tmp_path / str(weight), model, custom_hooks=hooks, train_cfg=settings)
        runner.train()
        norms[weight] = float(model.conv.kernel().norm())
        assert any('loss_kernel_l2' in key for key in runner.message_hub.log_scalars)
    assert norms[0.05] < 0.9 * norms[0.0]


def test_a_model_without_generated_kernels_is_refused(tmp_path):
    runner = tiny_runner(tmp_path, TinyModel(nn.Conv2d), custom_hooks=[dict(type='mmkerv.KernelL2Hook', weight=1.0)])
    with pytest.raises(ValueError, match='KernelL2Hook found no layer'):
        runner.call_hook('before_train')


def test_two_hooks_of_one_loss_are_refused(tmp_path):
    with pytest.raises(ValueError, match='loss_kernel_l2'):
        gradients(tmp_path, TinyModel(), [dict(type='mmkerv.KernelL2Hook', weight=1.0)] * 2)


def test_training_after_an_interrupted_one_adds_the_loss_once(tmp_path):
    runner = tiny_runner(tmp_path, TinyModel(), custom_hooks=[dict(type='mmkerv.KernelL2Hook', weight=1.0)])
    # Without an after_train.
    runner.call_hook('before_train')
    runner.train()
    assert not runner.model._forward_hooks


@pytest.mark.parametrize('weight', [-1.0, float('nan'), 'much'])
def test_a_bad_weight_is_named(weight):
    with pytest.raises((ValueError, TypeError), match='weight'):
        KernelL2Hook(weight)
