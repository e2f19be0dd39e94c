import math

import pytest
import torch

pytest.importorskip('mmengine')

from mmkerv.engine import RepulsionHook
from mmkerv.engine.hooks.repulsion_hook import repulsion
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.models import share_parameters
from mmkerv.ops import DCLSConv2d
from tests.engine.hooks.test_kernel_regularizer_hook import gradients
from tests.engine.tiny_runner import TinyModel, tiny_runner

NORMAL = {'kernel_extent': 7, 'positions_init': 'normal', 'points': 5}


def naive(positions: torch.Tensor) -> float:
    """The definition, by loops."""
    _, outputs, inputs, n = positions.shape
    total = 0.0
    for o in range(outputs):
        for i in range(inputs):
            for j in range(n):
                for k in range(j + 1, n):
                    total += max(0.0, 1 - math.dist(positions[:, o, i, j].tolist(), positions[:, o, i, k].tolist()))
    return 2 * total / (n * (n - 1) * outputs * inputs)


def test_equals_the_definition_and_its_limits():
    torch.manual_seed(0)
    positions = torch.randn(2, 3, 2, 5, dtype=torch.float64)
    assert repulsion(positions).item() == pytest.approx(naive(positions), abs=1e-12)
    assert repulsion(torch.zeros(2, 3, 2, 5)).item() == 1
    assert repulsion(DCLSConv2d(4, 4, 3).positions).item() == 0, 'on the grid no two taps are nearer than 1'
    assert torch.autograd.gradcheck(repulsion, positions.requires_grad_())
    coinciding = torch.zeros(2, 1, 1, 3, requires_grad=True)
    repulsion(coinciding).backward()
    assert bool(coinciding.grad.isfinite().all())


def test_adds_the_squared_mean_over_layers(tmp_path):
    plain, _ = gradients(tmp_path / 'plain', TinyModel(DCLSConv2d, **NORMAL), [])
    model = TinyModel(DCLSConv2d, **NORMAL)
    hook = dict(type='mmkerv.RepulsionHook', weight=3.0, begin=0)
    pushed, losses = gradients(tmp_path / 'rep', model, [hook])
    expected = 3 * repulsion(model.conv.positions).square()
    assert losses['loss_rep'].item() == pytest.approx(expected.item(), rel=1e-5) and expected > 0.01
    model.zero_grad()
    expected.backward()
    for name, p in model.named_parameters():
        change = p.grad if p.grad is not None else 0
        assert torch.allclose(pushed[name], plain[name] + change, atol=1e-5), name


def test_the_mean_counts_layers_and_shared_positions_once_each():
    layers = torch.nn.Sequential(*(DCLSConv2d(4, 4, 3, **NORMAL) for _ in range(3)))
    apart = torch.nn.Sequential(*layers, DCLSConv2d(4, 4, 3))
    hook = RepulsionHook(begin=0)
    assert list(hook.layers(apart)) == ['0', '1', '2', '3']
    share_parameters(layers, 'positions')
    once = repulsion(layers[0].positions)
    assert hook.total(list(apart)).item() == pytest.approx((3 / 4 * once).square().item(), rel=1e-6)
    apart[1].positions.requires_grad_(False)
    assert list(hook.layers(apart)) == ['3']
    assert list(
        RepulsionHook(where=dict(names='2')).layers(torch.nn.Sequential(*(DCLSConv2d(4, 4, 3) for _ in range(3))))
    ) == ['2']


def test_begins_after_its_epochs_and_pushes_taps_apart(tmp_path):
    model = TinyModel(DCLSConv2d, **NORMAL)
    hook = RepulsionHook(weight=20.0, begin=2)
    runner = tiny_runner(
        tmp_path, model, custom_hooks=[hook], train_cfg=dict(by_epoch=True, max_epochs=6, val_interval=9)
    )
    before = repulsion(model.conv.positions).item()
    runner.train()
    losses = runner.message_hub.log_scalars['train/loss_rep'].data[0]
    assert len(losses) == 8, 'two batches in each of the last four epochs'
    assert repulsion(model.conv.positions).item() < before / 2
    assert not hook._handle


def test_iterations_are_counted_on_request(tmp_path):
    loop = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=9)
    loader = {**tiny_runner(tmp_path / 'other')._train_dataloader, 'sampler': {'type': 'InfiniteSampler'}}
    settings = dict(train_cfg=loop, train_dataloader=loader, param_scheduler=[])
    model = TinyModel(DCLSConv2d, **NORMAL)
    runner = tiny_runner(tmp_path, model, custom_hooks=[RepulsionHook(begin=3, by_epoch=False)], **settings)
    runner.train()
    assert len(runner.message_hub.log_scalars['train/loss_rep'].data[0]) == 1
    runner = tiny_runner(tmp_path, TinyModel(DCLSConv2d, **NORMAL), custom_hooks=[RepulsionHook()], **settings)
    with pytest.raises(ArgumentError, match='counts epochs, but this run counts iterations; write by_epoch=False'):
        runner.train()


def test_warns_if_it_never_begins(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.engine.hooks.repulsion_hook.log', lambda text, level=0: lines.append(text))
    gradients(tmp_path, TinyModel(DCLSConv2d, **NORMAL), [dict(type='mmkerv.RepulsionHook')])
    assert lines == ['mmkerv: RepulsionHook has no effect: begin=20, and the run has 1 epochs; lower begin']


@pytest.mark.parametrize(
    ('options', 'kind', 'message'),
    [
        (dict(weight=-1), ArgumentError, 'weight'),
        (dict(begin=-1), ArgumentError, 'begin must be >= 0'),
        (dict(by_epoch='no'), ArgumentTypeError, 'by_epoch'),
        (dict(where=dict(stage=1)), ArgumentTypeError, 'stage'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, kind, message):
    with pytest.raises(kind, match=message):
        RepulsionHook(**options)


def test_a_network_without_the_operator_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match='RepulsionHook found no layer'):
        gradients(tmp_path, TinyModel(), [dict(type='mmkerv.RepulsionHook', begin=0)])
