import pytest
import torch

pytest.importorskip('mmengine')

from torch import nn

from mmkerv.engine import OrthogonalityHook
from mmkerv.ops import CoCConv, KervConv2d
from mmkerv.ops.losses import orthogonality_loss
from tests.engine.hooks.test_kernel_regularizer_hook import gradients
from tests.engine.tiny_runner import TinyModel, tiny_runner


@pytest.mark.parametrize(
    ('conv', 'options'),
    [(nn.Conv2d, {}), (KervConv2d, {'degree': 2}), (CoCConv, {'super_init': 'kaiming'})],
    ids=['plain', 'kerv', 'coc'],
)
def test_adds_the_loss_of_the_kernel_that_convolves(tmp_path, conv, options):
    plain, _ = gradients(tmp_path / 'plain', TinyModel(conv, **options), [])
    model = TinyModel(conv, **options)
    orthogonal, losses = gradients(tmp_path / 'orth', model, [dict(type='mmkerv.OrthogonalityHook', weight=0.2)])
    kernel = model.conv.kernel() if conv is CoCConv else model.conv.weight
    expected = 0.2 * orthogonality_loss(kernel, (1, 1), (1, 1), 1)
    assert losses['loss_orth'].item() == pytest.approx(expected.item(), rel=1e-5)
    model.zero_grad()
    expected.backward()
    for name, p in model.named_parameters():
        change = p.grad if p.grad is not None else 0
        assert torch.allclose(orthogonal[name], plain[name] + change, atol=1e-5), name


class Staged(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
        self.layer2 = nn.Sequential(nn.Conv2d(4, 8, 3))
        self.head = nn.Conv2d(8, 8, 1)


@pytest.mark.parametrize(
    ('where', 'names'),
    [
        (None, ['layer1.0', 'layer1.1', 'layer1.2', 'layer2.0', 'head']),
        ({}, ['conv1', 'layer1.1', 'layer1.2', 'layer2.0']),
        ({'stages': (2,), 'stem': False}, ['layer2.0']),
        ({'depthwise': False, 'names': 'layer1'}, ['layer1.1']),
    ],
    ids=str,
)
def test_acts_on_the_chosen_layers(where, names):
    assert list(OrthogonalityHook(1.0, where).layers(Staged())) == names


def test_frozen_layers_are_left_out():
    model = Staged()
    model.layer1.requires_grad_(False)
    assert list(OrthogonalityHook(1.0).layers(model)) == ['layer2.0', 'head']


def test_makes_filters_orthogonal_in_a_run(tmp_path):
    distances = {}
    for weight in (0.0, 1.0):
        model = TinyModel(nn.Conv2d)
        settings = dict(by_epoch=True, max_epochs=40, val_interval=99)
        hooks = [dict(type='mmkerv.OrthogonalityHook', weight=weight)]
        tiny_runner(tmp_path / str(weight), model, custom_hooks=hooks, train_cfg=settings).train()
        distances[weight] = orthogonality_loss(model.conv.weight, (1, 1), (1, 1), 1).item()
    # There are 8 rows in 3 dimensions at every position: 5 of them cannot be orthonormal.
    assert distances[0.0] > 5.5 and 5 <= distances[1.0] < 5.1


@pytest.mark.parametrize('super_bias', [True, False])
def test_warns_of_a_super_bias(monkeypatch, super_bias):
    lines = []
    monkeypatch.setattr('mmkerv.engine.hooks.orthogonality_hook.log', lambda text, level=0: lines.append(text))
    model = nn.Sequential(CoCConv(3, 8, 3, super_bias=super_bias), nn.Conv2d(8, 8, 3))
    assert len(OrthogonalityHook(0.01).layers(model)) == 2
    assert [('super_bias=True' in line and ' 0 ' in line) for line in lines] == ([True] if super_bias else [])


def test_loss_falls_with_coc_without_super_bias():
    torch.manual_seed(0)
    model = nn.Sequential(CoCConv(64, 64, 3, super_init='kaiming'))
    nn.init.kaiming_normal_(model[0].weight, mode='fan_out')
    hook, optimizer = OrthogonalityHook(0.01), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    (layer,) = hook.layers(model).values()
    losses = []
    for _ in range(10):
        losses.append(hook.loss(layer))
        optimizer.zero_grad()
        (hook.weight * losses[-1]).backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match='weight'):
        OrthogonalityHook(-1)
    with pytest.raises(TypeError, match='stages_'):
        OrthogonalityHook(1, where={'stages_': 1})
    nothing = [dict(type='mmkerv.OrthogonalityHook', weight=1.0, where=dict(names='nothing'))]
    with pytest.raises(ValueError, match='OrthogonalityHook found no layer'):
        tiny_runner(tmp_path, TinyModel(), custom_hooks=nothing).call_hook('before_train')
