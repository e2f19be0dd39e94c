import pytest
import torch

pytest.importorskip('mmengine')

from torch import nn

from mmkerv.engine import OrthogonalityHook
from mmkerv.ops import CoCConv, KervConv2d, RecConv2d
from mmkerv.ops.losses import group_orthogonality_loss, orthogonality_loss
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
        ({}, ['conv1', 'layer1.0', 'layer1.1', 'layer1.2', 'layer2.0', 'head']),
        ({'kernel_sizes': '>1'}, ['conv1', 'layer1.1', 'layer1.2', 'layer2.0']),
        ({'stages': (1,), 'stem': False}, ['layer1.0', 'layer1.1', 'layer1.2']),
        ({'depthwise': False, 'names': 'layer1'}, ['layer1.0', 'layer1.1']),
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
    warnings = [line for line in lines if 'super bias' in line]
    assert [('super_bias=True' in line and ' 0 ' in line) for line in warnings] == ([True] if super_bias else [])


@pytest.fixture
def lines(monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.engine.hooks.orthogonality_hook.log', lambda text, level=0: lines.append(text))
    return lines


@pytest.mark.parametrize('mode', [None, 'intra'])
def test_groups_of_filters_in_a_run(tmp_path, mode):
    options = {'shifts': 'zero', 'groups': 3, **({'mode': mode} if mode else {})}
    plain, _ = gradients(tmp_path / 'plain', TinyModel(nn.Conv2d), [])
    model = TinyModel(nn.Conv2d)
    hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.2, **options)]
    orthogonal, losses = gradients(tmp_path / 'orth', model, hooks)
    # Two groups: 3 does not divide the 8 filters.
    expected = 0.2 * group_orthogonality_loss(model.conv.weight, 1, 2, mode or 'inter')
    assert losses['loss_orth'].item() == pytest.approx(expected.item(), rel=1e-5)
    model.zero_grad()
    expected.backward()
    assert torch.allclose(orthogonal['conv.weight'], plain['conv.weight'] + model.conv.weight.grad, atol=1e-5)


def test_follows_the_group_norm_behind_each_layer(lines):
    model = nn.ModuleDict(
        {
            'a': nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 8, 3)),
            'b': nn.Sequential(nn.Conv2d(8, 12, 3, groups=2), nn.GroupNorm(6, 12)),
            'c': nn.Sequential(nn.Conv2d(12, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.GroupNorm(4, 12)),
        }
    )
    hook = OrthogonalityHook(1.0, shifts='zero', groups='gn')
    layers = hook.layers(model)
    assert list(layers) == ['a.0', 'b.0']
    assert lines == [
        'mmkerv: OrthogonalityHook: 2 layers are left out, since they have no GroupNorm behind them: a.3, c.0'
    ]
    for layer, number in zip(layers.values(), (4, 3)):
        expected = group_orthogonality_loss(layer.weight, layer.groups, number)
        assert hook.loss(layer).item() == pytest.approx(expected.item())
    # The sets are the groups of the norm.
    whole = model['b'][0].weight.flatten(1).view(6, 2, -1)
    assert hook.loss(model['b'][0]).item() == pytest.approx(
        (whole @ whole.mT - torch.eye(2)).square().sum().item(), rel=1e-5
    )


def test_a_model_without_group_norm_is_refused(tmp_path):
    hooks = [dict(type='mmkerv.OrthogonalityHook', weight=1.0, shifts='zero', groups='gn')]
    with pytest.raises(ValueError, match='OrthogonalityHook found no layer'):
        tiny_runner(tmp_path, TinyModel(nn.Conv2d), custom_hooks=hooks).call_hook('before_train')


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (
            {},
            ('in 2 of 3 layers', 'of each is 0 5, 1 4; loss_orth is at least 0.9'),
        ),
        (
            {'shifts': 'zero'},
            ('in 1 of 3 layers', 'of each is 1 4; loss_orth is at least 0.4'),
        ),
        ({'shifts': 'zero', 'groups': 2}, ()),
    ],
    ids=['all', 'zero', 'groups'],
)
def test_tells_where_orthogonality_cannot_hold(options, words, lines):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(4, 8, 1, 2), CoCConv(8, 8, 3))
    # As hosts rewrite it.
    model[1].stride, model[1].dilation = 2, 1
    hook = OrthogonalityHook(0.1, **options)
    assert hook.loss(hook.layers(model)['1']) > 3.9
    assert len(lines) == bool(words) and all(word in line for line in lines for word in words), lines


def test_operators_without_a_kernel_are_left_out(lines):
    model = nn.Sequential(nn.Conv2d(4, 4, 3), RecConv2d(4, 4, 3, padding=1, groups=4))
    assert list(OrthogonalityHook(1.0).layers(model)) == ['0']
    assert 'have neither a kernel nor a basic weight: 1' in lines[0]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'shifts': 'one'}, "shifts must be .*got 'one'"),
        ({'groups': 4}, "groups is for shifts='zero', got groups=4"),
        ({'mode': 'intra'}, "mode is for shifts='zero', got mode='intra'"),
        ({'shifts': 'zero', 'groups': 0}, 'groups must be >= 1, got 0'),
        ({'shifts': 'zero', 'groups': 'bn'}, "groups must be an integer >= 1 or 'gn', got 'bn'"),
        ({'shifts': 'zero', 'mode': 'both'}, "mode must be .*got 'both'"),
    ],
    ids=str,
)
def test_options_of_groups_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        OrthogonalityHook(1.0, **options)


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
