"""`mmkerv.add_orthogonal_adapters`: which layers, what learns, clear errors, and networks of configs."""

import copy

import pytest
import torch
from torch import nn

import mmkerv
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.ops import CKConv2d, CoCConv2d, switch_to_deploy
from mmkerv.ops.core.adapter import adapted_layers, adapter_of
from tests.ops.contract import relative


class Network(nn.Module):
    """Stem, two stages and a head, with norms."""

    def __init__(self, conv: type = nn.Conv2d):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 7, padding=3)
        self.layer1 = nn.Sequential(conv(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(conv(8, 16, 3, stride=2, padding=2, dilation=2, groups=2), nn.Conv2d(16, 8, 1))
        self.head = nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.head(self.layer2(self.layer1(self.stem(x))))


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def skews(*names: str) -> set[str]:
    return {f'{name}.parametrizations.weight.0.skew' for name in names}


def names(model: nn.Module) -> list[str]:
    return [name for name, _, _ in adapted_layers(model)]


@pytest.mark.parametrize(
    ('where', 'expected'),
    [
        (None, ['layer1.0', 'layer2.0', 'layer2.1', 'head']),
        (dict(stages=(1,)), ['layer1.0']),
        (dict(names='layer2'), ['layer2.0', 'layer2.1']),
        (dict(names='layer2', kernel_sizes='>1'), ['layer2.0']),
    ],
    ids=['all', 'stage', 'names', 'sizes'],
)
@pytest.mark.parametrize('conv', [nn.Conv2d, CoCConv2d], ids=['plain', 'operator'])
def test_where_selects_layers_and_the_network_stays_exact(where, expected, conv):
    if where == dict(stages=(1,)):
        where = dict(where, stem=False)
    model, x = Network(conv).eval(), torch.randn(1, 3, 12, 12)
    before = model(x)
    assert mmkerv.add_orthogonal_adapters(model, where, block_size=4) is model
    assert names(model) == expected and torch.equal(model(x), before)


def test_the_layers_are_frozen_and_the_rest_learns():
    model = mmkerv.add_orthogonal_adapters(Network(CoCConv2d), dict(names=['layer'], stem=False), block_size=4)
    rest = {'stem.weight', 'stem.bias', 'layer1.1.weight', 'layer1.1.bias', 'head.weight', 'head.bias'}
    assert learning(model) == skews('layer1.0', 'layer2.0', 'layer2.1') | rest


def test_the_whole_network_can_be_frozen():
    model = mmkerv.add_orthogonal_adapters(Network(CoCConv2d), block_size=4, freeze='all')
    assert learning(model) == skews('layer1.0', 'layer2.0', 'layer2.1', 'head')
    more = mmkerv.add_orthogonal_adapters(model, dict(stages=()), block_size=7, freeze='all')
    assert learning(more) == skews('stem', 'layer1.0', 'layer2.0', 'layer2.1', 'head')


@pytest.mark.parametrize('kind', ['oft', 'boft'])
def test_training_moves_the_adapters_alone_and_folds(kind):
    model = mmkerv.add_orthogonal_adapters(Network(CoCConv2d), kind=kind, block_size=2, freeze='all')
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    x = torch.randn(2, 3, 12, 12)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x).square().mean() - model(x).mean()).backward()
        optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, start[key])}
    assert learning(model) <= moved
    assert all('running' in key or 'tracked' in key for key in moved - learning(model))
    model.eval()
    expected = model(x)
    report = switch_to_deploy(model)
    assert sorted(report.replaced) == ['head', 'layer1.0', 'layer2.0', 'layer2.1']
    assert relative(model(x), expected) < 1e-5
    assert list(model.state_dict()) == list(Network().state_dict())


def test_averaged_and_copied_networks_keep_their_own_adapters():
    model = mmkerv.add_orthogonal_adapters(Network(), block_size=4)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for factor in (1.0, 3.0):
        with torch.no_grad():
            adapter_of(model.head).skew.fill_(factor)
        averaged.update_parameters(model)
    assert float(adapter_of(averaged.module.head).skew.mean()) == 2
    assert adapter_of(model.head).skew.mean() == 3


def test_layers_without_a_weight_are_left_out(caplog):
    model = nn.Sequential(CKConv2d(4, 4, 3), nn.Conv2d(4, 4, 1), nn.LazyConv2d(4, 1))
    torch.nn.utils.parametrizations.weight_norm(model.append(nn.Conv2d(4, 4, 1))[3])
    mmkerv.add_orthogonal_adapters(model, block_size=2)
    assert names(model) == ['1']


BAD = {
    'an unknown kind': (dict(kind='lora'), ArgumentError, "kind must be .*'oft'.*'boft'.*got 'lora'"),
    'a block of one': (dict(block_size=1), ArgumentError, 'block_size must be .*>= 2, got 1'),
    'no integer': (dict(block_size=4.0), ArgumentTypeError, 'block_size must be an integer'),
    'blocks that do not divide': (
        dict(block_size=5),
        ArgumentError,
        r'layer1\.0: block_size=5 needs filters of a multiple of 5 elements, got 72 \(8 x 3 x 3\); block_size=2 or 4 '
        r'does for all 4 layers, or leave this one out with where',
    ),
    'too many factors': (
        dict(kind='boft', block_size=4, factors=9),
        ArgumentError,
        r'layer1\.0: block_size=4 with factors=9 needs filters of a multiple of 1024 elements, got 72 .*; leave this',
    ),
    'factors of oft': (dict(factors=2), ArgumentError, "factors is for kind='boft', got factors=2 with kind='oft'"),
    'odd halves': (dict(kind='boft', block_size=3), ArgumentError, 'block_size must be even for factors=2.*got 3'),
    'no layer': (
        dict(where=dict(names='neck')),
        ArgumentError,
        r"where={'kernel_sizes': 'all', 'names': \('neck',\)} selects no layer",
    ),
    'an unknown key': (dict(where=dict(stage=1)), ArgumentTypeError, 'stage'),
    'another freeze': (dict(freeze=True), ArgumentTypeError, 'freeze'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_arguments_are_refused_and_change_nothing(case):
    arguments, kind, message = BAD[case]
    model = Network()
    with pytest.raises((kind, ArgumentError), match=message):
        mmkerv.add_orthogonal_adapters(model, **arguments)
    assert not names(model) and len(learning(model)) == len(list(model.parameters()))


def test_a_second_adapter_is_refused():
    model = mmkerv.add_orthogonal_adapters(Network(), dict(stages=(1,), stem=False), block_size=4)
    with pytest.raises(
        ArgumentError, match=r'1 of the 4 selected layers, such as layer1\.0, have an orthogonal adapter'
    ):
        mmkerv.add_orthogonal_adapters(model, block_size=4)
    switch_to_deploy(model)
    mmkerv.add_orthogonal_adapters(model, block_size=4)


def test_convert_leaves_layers_with_adapters():
    model = mmkerv.add_orthogonal_adapters(Network(), dict(stages=(1,), stem=False), block_size=4)
    mmkerv.convert(model, dict(type='CoCConv'))
    assert isinstance(model.layer2[0], CoCConv2d) and names(model) == ['layer1.0']
