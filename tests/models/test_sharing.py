import copy
import logging
import pickle

import pytest
import torch
from torch import nn

import mmkerv
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.ops import CoCConv2d, CondConv2d, DCLSConv2d, switch_to_deploy
from tests.ops.contract import relative


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.norm(self.conv2(self.conv1(x).relu()))


class Staged(nn.Module):
    """Two stages of three blocks, and a head outside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(*(Block(8, 8) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(8, 16, 2), Block(16, 16), Block(16, 16))
        self.head = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)))

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))))


def groups(model: nn.Module, name: str = 'weight') -> list[set[str]]:
    """Layers that hold the same Parameter."""
    found = {}
    for key, module in model.named_modules():
        if name in module._parameters and not isinstance(module, nn.BatchNorm2d):
            found.setdefault(id(module._parameters[name]), set()).add(key)
    return [group for group in found.values() if len(group) > 1]


FIRST = {f'layer1.{i}.conv{j}' for i in range(3) for j in (1, 2)}
# The strided convolution with another number of channels is of another shape.
SECOND = {'layer2.0.conv2'} | {f'layer2.{i}.conv{j}' for i in (1, 2) for j in (1, 2)}


def dcls(**options) -> nn.Module:
    return mmkerv.convert(Staged(), dict(type='DCLSConv', kernel_extent=5, **options), dict(stem=False))


def image() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ('where', 'expected'),
    [
        (None, [FIRST, SECOND]),
        (dict(stages=(2,)), [SECOND]),
        (dict(names='conv2'), [{f'layer1.{i}.conv2' for i in range(3)}, {f'layer2.{i}.conv2' for i in range(3)}]),
        (dict(names=['head']), [{'head.0', 'head.1'}]),
    ],
    ids=['all', 'stage', 'names', 'outside'],
)
def test_layers_of_one_shape_in_a_stage_share_weight_and_bias(where, expected):
    model = Staged()
    assert mmkerv.share_kernels(model, where) is model
    assert groups(model) == groups(model, 'bias') == expected
    assert model.layer1[0].norm.weight is not model.layer1[1].norm.weight


def test_a_network_without_stages_is_one():
    model = mmkerv.share_kernels(nn.Sequential(nn.Conv2d(3, 8, 3), *(nn.Conv2d(8, 8, 3) for _ in range(3))))
    assert groups(model) == [{'1', '2', '3'}]


def test_a_rule_selects_1x1_layers_too():
    model = nn.Sequential(*(CondConv2d(8, 8, 1) for _ in range(2)))
    assert groups(mmkerv.share_parameters(model, 'experts', dict(stem=True)), 'experts') == [{'0', '1'}]


def test_other_options_types_and_frozen_layers_do_not_share():
    layers = [DCLSConv2d(8, 8, 3, version=version) for version in ('v0', 'v0', 'v1', 'v1')]
    layers += [nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3).double(), nn.Conv2d(8, 8, 3).requires_grad_(False)]
    model = mmkerv.share_kernels(nn.Sequential(*layers))
    assert groups(model) == [{'0', '1'}, {'2', '3'}]


def test_own_parameters_are_shared_and_the_rest_is_not():
    model = mmkerv.share_parameters(dcls(), 'positions')
    assert groups(model, 'positions') == [FIRST, SECOND] and not groups(model)
    nested = nn.Sequential(CoCConv2d(8, 8, 3), CoCConv2d(8, 8, 3))
    mmkerv.share_parameters(nested, ['super_layers.0.weight'])
    assert nested[0].super_layers[0].weight is nested[1].super_layers[0].weight


def test_the_first_layers_values_are_kept_and_differing_ones_named(monkeypatch):
    lines = []
    monkeypatch.setattr('mmkerv.models.sharing.log', lambda text, level=logging.INFO: lines.append((text, level)))
    model = Staged()
    first = model.layer1[0].conv1.weight
    mmkerv.share_kernels(model)
    assert model.layer1[2].conv2.weight is first
    assert '11 layers share weight, bias within 2 stages and shapes, such as layer1.0.conv1 and' in lines[0][0]
    assert lines[0][0].endswith('; kept apart: 3')
    assert 'the values differed' in lines[1][0] and lines[1][1] == logging.WARNING
    lines.clear()
    mmkerv.share_parameters(dcls(), 'positions')
    assert len(lines) == 1, 'all positions start on the grid'


@pytest.mark.parametrize('assign', [False, True])
def test_checkpoints_with_and_without_sharing_load(assign, monkeypatch):
    lines = []
    shared, plain = mmkerv.share_kernels(Staged()), Staged()
    monkeypatch.setattr('mmkerv.models.sharing.log', lambda text, level=logging.INFO: lines.append(text))
    assert set(shared.state_dict()) == set(plain.state_dict())
    other = mmkerv.share_kernels(Staged())
    lines.clear()
    with torch.no_grad():
        shared.layer1[1].conv1.weight.mul_(2)
    other.load_state_dict(shared.state_dict(), assign=assign)
    plain.load_state_dict(shared.state_dict(), assign=assign)
    assert groups(other) == [FIRST, SECOND] and not lines
    for model in (shared, other, plain):
        model.eval()
    assert torch.equal(other(image()), shared(image())) and torch.equal(plain(image()), shared(image()))
    state = Staged().state_dict()
    state['layer1.2.conv2.weight'] = torch.full_like(state['layer1.2.conv2.weight'], 3.0)
    other.load_state_dict(state, assign=assign)
    assert groups(other) == [FIRST, SECOND] and bool((other.layer1[0].conv1.weight == 3).all())
    assert len(lines) == 1 and '4 shared parameters have different values in the checkpoint' in lines[0]


def test_loading_as_a_part_of_a_larger_network():
    inner = mmkerv.share_kernels(Staged())
    outer, again = nn.ModuleDict({'backbone': inner}), nn.ModuleDict({'backbone': mmkerv.share_kernels(Staged())})
    again.load_state_dict(outer.state_dict(), assign=True)
    assert groups(again['backbone']) == [FIRST, SECOND]


def test_a_network_built_without_memory_shares_after_loading():
    with torch.device('meta'):
        model = mmkerv.share_kernels(Staged())
    source = mmkerv.share_kernels(Staged())
    model.to_empty(device='cpu')
    model.load_state_dict(source.state_dict())
    assert groups(model) == [FIRST, SECOND]
    assert torch.equal(model.eval()(image()), source.eval()(image()))


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=['copy', 'pickle']
)
def test_copies_share_too(copied):
    model = mmkerv.share_parameters(dcls(), 'positions')
    other = copied(model)
    assert groups(other, 'positions') == [FIRST, SECOND]
    assert other.layer1[0].conv1.positions is not model.layer1[0].conv1.positions
    other.load_state_dict(model.state_dict(), assign=True)
    assert groups(other, 'positions') == [FIRST, SECOND] and groups(model, 'positions') == [FIRST, SECOND]


def test_training_moves_the_shared_parameter_once_and_folding_is_exact():
    model = mmkerv.share_parameters(dcls(), ['positions', 'weight'])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    assert len(optimizer.param_groups[0]['params']) == len({id(p) for p in model.parameters()})
    before = model.layer1[0].conv1.positions.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        model(image()).square().mean().backward()
        optimizer.step()
    assert not torch.equal(before, model.layer1[2].conv2.positions)
    assert groups(model, 'positions') == [FIRST, SECOND]
    expected = model.eval()(image())
    folded = copy.deepcopy(model)
    assert len(switch_to_deploy(folded).replaced) == 14
    assert relative(folded(image()), expected) < 1e-5


def test_folded_layers_are_not_tied_by_loading():
    """Their kernels differ if only the basic weight was shared."""
    model = mmkerv.share_kernels(mmkerv.convert(Staged(), dict(type='CoCConv', super_init='kaiming'), dict(stem=False)))
    expected = model.eval()(image())
    folded = copy.deepcopy(model)
    switch_to_deploy(folded)
    folded.load_state_dict(folded.state_dict(), assign=True)
    assert not groups(folded) and relative(folded(image()), expected) < 1e-5


@pytest.mark.parametrize(
    ('names', 'where', 'kind', 'message'),
    [
        ('position', None, ArgumentError, r"names=\('position',\): no selected layer has .* have weight, bias; change"),
        ('weight', dict(names='stem'), ArgumentError, r'none of the 1 layers that have it, such as stem, has another'),
        ((), None, ArgumentTypeError, 'names must be names of parameters'),
        ([3], None, ArgumentTypeError, 'names must be names of parameters'),
        ('weight', dict(stage=1), ArgumentTypeError, 'stage'),
    ],
    ids=str,
)
def test_what_cannot_be_shared_is_refused_and_nothing_changes(names, where, kind, message):
    model = Staged()
    with pytest.raises(kind, match=message):
        mmkerv.share_parameters(model, names, where)
    assert not groups(model)
