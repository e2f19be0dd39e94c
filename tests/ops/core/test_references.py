"""Modules that a model runs from a list, dict or object beside its children are replaced there, too."""

import copy
import functools
from collections import deque, namedtuple

import pytest
import torch
from torch import nn

import mmkerv
from mmkerv.ops import CoCConv2d, KervConv2d, switch_to_deploy
from mmkerv.ops.core.references import replace_modules

Pair = namedtuple('Pair', 'conv name')


class Holder:
    """An object that is no module."""

    def __init__(self, conv):
        self.conv = conv


def unregistered(conv):
    module = nn.Module()
    module.inner = conv
    return [module]


def cyclic(conv):
    items = [conv]
    items.append(items)
    return items


# What a network keeps its convolution in, and how its forward gets it from there.
REPLACEABLE = {
    'a list': (lambda conv: [conv, 'text'], lambda kept: kept[0]),
    'a tuple': (lambda conv: (conv, 1), lambda kept: kept[0]),
    'a named tuple': (lambda conv: Pair(conv, 'name'), lambda kept: kept.conv),
    'a dict': (lambda conv: {'a': conv}, lambda kept: kept['a']),
    'a deque': (lambda conv: deque([conv]), lambda kept: kept[0]),
    'nested containers': (lambda conv: {1: [({'x': (conv,)},)]}, lambda kept: kept[1][0][0]['x'][0]),
    'an object': (Holder, lambda kept: kept.conv),
    'a list in an object': (lambda conv: Holder([conv]), lambda kept: kept.conv[0]),
    'a module that is no child': (unregistered, lambda kept: kept[0].inner),
    'a list in a closure': (lambda conv: (lambda items: lambda: items[0])([conv]), lambda kept: kept()),
    'a list that holds itself': (cyclic, lambda kept: kept[1][0]),
}
FIXED = {
    'a bound method': lambda conv: conv.forward,
    'a closure': lambda conv: lambda x: conv(x),
    'a default': lambda conv: [eval('lambda x, conv=conv: conv(x)', {'conv': conv})],
    'a functools.partial': lambda conv: functools.partial(torch.nn.Module.__call__, conv),
    'a set': lambda conv: {conv},
    'a key': lambda conv: {conv: 1},
    'a tuple in a closure': lambda conv: (lambda items: lambda: items[0])((conv,)),
}


class Host(nn.Module):
    def __init__(self, conv, keep, get):
        super().__init__()
        self.add_module('0', conv)
        self.kept, self.get = keep(conv), get

    def forward(self, x):
        return self.get(self.kept)(x)


@pytest.mark.parametrize('kind', REPLACEABLE)
def test_convert_and_folding_replace_a_layer_where_it_is_used(kind):
    host = Host(nn.Conv2d(4, 4, 3), *REPLACEABLE[kind])
    assert mmkerv.convert(host, {'type': 'CoCConv'}) is host
    operator = host.get(host.kept)
    assert isinstance(operator, CoCConv2d) and operator is host._modules['0']
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        for parameter in operator.super_layers.parameters():
            parameter.add_(torch.randn_like(parameter))
    expected = host(x)
    assert switch_to_deploy(host).replaced == ['0']
    assert type(host.get(host.kept)) is nn.Conv2d and host.get(host.kept) is host._modules['0']
    assert torch.allclose(host(x), expected, atol=1e-5)


@pytest.mark.parametrize('kind', FIXED)
def test_a_layer_used_where_it_cannot_be_replaced_is_refused_by_convert_and_kept_by_folding(kind):
    host = nn.Sequential(Host(nn.Conv2d(4, 4, 3), FIXED[kind], lambda kept: kept), nn.Conv2d(4, 4, 3))
    before = list(host.modules())
    with pytest.raises(mmkerv.errors.ArgumentError, match=r'0\.0 in 0\.kept.*where\.names'):
        mmkerv.convert(host, {'type': 'CoCConv'})
    assert list(host.modules()) == before, 'nothing was replaced'
    mmkerv.convert(host, {'type': 'CoCConv'}, {'names': r'^1$'})

    host = nn.Sequential(Host(CoCConv2d(4, 4, 3), FIXED[kind], lambda kept: kept), CoCConv2d(4, 4, 3))
    report = switch_to_deploy(host)
    assert report.replaced == ['1'] and 'also used in 0.kept' in report.kept['0.0']
    assert isinstance(host[0]._modules['0'], CoCConv2d)


def test_a_copy_of_a_converted_host_uses_its_own_operators():
    host = Host(nn.Conv2d(4, 4, 3), *REPLACEABLE['a list'])
    twin = copy.deepcopy(mmkerv.convert(host, {'type': 'KervConv'}))
    assert isinstance(twin.kept[0], KervConv2d) and twin.kept[0] is twin._modules['0'] is not host.kept[0]


def test_ten_thousand_linked_objects_are_searched():
    conv = nn.Conv2d(4, 4, 3)
    host = Host(conv, lambda conv: None, None)
    link = Holder(conv)
    for _ in range(10000):
        link = Holder(link)
    host.kept = link
    new = nn.Identity()
    assert replace_modules(host, {conv: new}) == {}
    while isinstance(link, Holder):
        link = link.conv
    assert link is new


def test_a_model_from_which_another_was_traced_stays_plain():
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    traced = torch.fx.symbolic_trace(model)
    mmkerv.convert(traced, {'type': 'CoCConv'})
    assert type(model[0]) is nn.Conv2d and isinstance(traced.get_submodule('0'), CoCConv2d)


def test_maskformer_of_huggingface_uses_the_operators_of_its_feature_pyramid():
    pytest.importorskip('transformers')
    from transformers.models.maskformer.modeling_maskformer import MaskFormerFPNModel

    torch.manual_seed(0)
    model = MaskFormerFPNModel(8, [4, 8], feature_size=32).eval()
    features = [torch.randn(1, c, s, s) for c, s in ((4, 16), (8, 8), (8, 4))]
    expected = model(features)[-1]
    mmkerv.convert(model, {'type': 'CoCConv'})
    assert torch.allclose(model(features)[-1], expected, atol=1e-5)
    operators = [m for m in model.modules() if isinstance(m, CoCConv2d)]
    with torch.no_grad():
        for operator in operators:
            for parameter in operator.super_layers.parameters():
                parameter.add_(torch.randn_like(parameter))
    moved = model(features)[-1]
    assert (moved - expected).abs().max() > 0.1
    moved.sum().backward()
    assert all(operator.super_layers[0].weight.grad is not None for operator in operators)
    assert len(switch_to_deploy(model).replaced) == len(operators) == 3
    assert torch.allclose(model(features)[-1], moved, atol=1e-4)
