"""Descriptions come from the classes: every operator has one, and what it says about folding is what happens."""

import contextlib
import inspect
import itertools
from pathlib import Path

import pytest
import torch

import mmkerv
from mmkerv import ops
from mmkerv.errors import ArgumentError, FoldError
from mmkerv.ops.core.starting_point import AS_PLAIN
from mmkerv.ops.description import (
    Description,
    cost,
    describe,
    find_operator,
    list_kernels,
    list_operators,
    sample,
    training_table,
)
from mmkerv.registry import OPERATORS

NAMES = list_operators()


def test_the_operators_are_those_of_the_registry():
    assert sorted(OPERATORS) == NAMES == mmkerv.list_operators()


@pytest.mark.parametrize('name', NAMES)
def test_every_operator_is_described(name):
    found = describe(name)
    assert found.summary and not {'`', ':math:', ':class:'} & set(found.summary)
    assert '=' in found.equation and '`' not in found.equation, found.equation
    assert all(meaning for _, meaning in found.arguments.values()), found.arguments
    assert found.cost is not None and found.cost.parameters > 0 and found.cost.products > 0
    text = str(found)
    assert (
        text == repr(found)
        and f"conv_cfg=dict(type='mmkerv.{name}')" in text
        and max(map(len, text.split('\n'))) <= 100
    )


@pytest.mark.parametrize('name', NAMES)
def test_the_text_on_folding_is_what_the_operator_does(name):
    named = getattr(ops, name)
    operator = getattr(named, 'operator', named)
    layers = []
    for size, groups, pads in itertools.product((3, 5), (1, 32), (True, False)):
        with contextlib.suppress(ArgumentError):
            layers.append(named(32, 32, size, padding=size // 2 if pads else 0, groups=groups).eval())
    layer = next(layer for layer in layers if isinstance(layer, operator))
    fold = getattr(layer, f'to_conv{operator.dims}d')
    if operator.folds.startswith('never') or 'no other kernel' in operator.folds:
        with pytest.raises(FoldError):
            fold()
        return
    assert ('if asked' in operator.folds) == operator.costs_more_folded
    convolutions = [module for module in fold().modules() if type(module).__name__ == f'Conv{operator.dims}d']
    assert (len(convolutions) > 1) == ('in a row' in operator.folds) and convolutions


@pytest.mark.parametrize('name', NAMES)
def test_the_text_on_training_is_what_a_layer_does(name):
    found, (layer, plain, x, _) = describe(name), sample(getattr(ops, name))
    assert (found.starts == AS_PLAIN) == layer.starts_as_identity
    if layer.starts_as_identity:
        plain.load_state_dict({'weight': layer.weight, 'bias': layer.bias})
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(layer(x), plain(x), atol=1e-5)
    own = {key for key, _ in layer.named_parameters()}
    for fact in (*layer.no_decay, *layer.lr_mult, *layer.norm_parameters):
        assert fact in found.rules
    assert ('weight decay' in found.rules) == bool(layer.no_decay) and own


def test_the_page_has_the_table():
    page = (Path(__file__).parents[2] / 'docs' / 'recipes.md').read_text()
    assert f'\n{training_table()}\n' in page, 'mmkerv ops --training --write docs/recipes.md'


def test_a_description_has_the_arguments_of_the_class():
    found = describe('DCLSConv')
    assert list(found.arguments) == [*ops.DCLSConv2d.Options._fields, 'replace_1x1']
    assert found.arguments['kernel_extent'][0] == 'None' and found.arguments['replace_1x1'][0] == 'False'
    assert found.source.startswith('Dilated Convolution with Learnable Spacings, ICLR 2023')
    assert (
        describe('FlexConv').arguments['net'][0] == "'magnet'" and describe('CKConv').arguments['net'][0] != "'magnet'"
    )
    assert describe('KervConv1d').equation == describe('KervConv').equation
    assert describe('FlexConv').summary.startswith('CKConv that learns its size')


@pytest.mark.parametrize('name', NAMES)
def test_the_text_is_for_a_terminal(name):
    assert '\\' not in str(describe(name))


def test_the_cost_is_that_of_the_layers():
    found = cost(ops.WeightedConv)
    assert found.plain_parameters == 64 * 64 * 9 + 64 and found.plain_products == 64 * 64 * 9 * 16 * 16
    assert found.products == found.plain_products
    assert cost(ops.MixConv).plain_parameters == 64 * 9 + 64 and 'depthwise' in str(cost(ops.MixConv))
    state = torch.random.get_rng_state()
    describe('CoCConv')
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize('name', ['DCLSConv', 'mmkerv.DCLSConv', 'DCLSConv2d', 'dcls', ops.DCLSConv, ops.DCLSConv2d])
def test_an_operator_is_found_by_each_of_its_names(name):
    assert find_operator(name) == 'DCLSConv'


@pytest.mark.parametrize('name', NAMES)
def test_short_names_lead_to_the_operator_for_images(name):
    short = getattr(ops, name).short_name
    if short:
        assert getattr(ops, find_operator(short)).short_name == short


@pytest.mark.parametrize(
    'name, meant',
    [('CocConv', 'CoCConv'), ('mmkerv.CocConv', 'CoCConv'), ('kervconv ', 'KervConv'), ('dlcs', 'dcls')],
)
def test_a_misspelt_name_gets_a_suggestion(name, meant):
    with pytest.raises(ArgumentError, match=f"no operator '{name}'; did you mean '{meant}'\\? It has: CKConv, "):
        Description(name)
    with pytest.raises(ArgumentError, match=r"no operator 'Transformer'\. It has: "):
        describe('Transformer')


def test_kernels_of_the_user_are_listed():
    from mmkerv.ops.kerv.registry import KERNELS

    assert 'polynomial' in list_kernels() and 'mine' not in list_kernels()
    ops.register_kernel('mine', family='radial')(lambda d2: -d2)
    try:
        assert 'mine' in mmkerv.list_kernels()
    finally:
        KERNELS.pop('mine')


def test_names_are_attributes_of_mmkerv():
    for name in ('describe', 'list_configs', 'list_kernels', 'list_operators'):
        assert name in dir(mmkerv) and name in mmkerv.__all__ and inspect.isfunction(getattr(mmkerv, name))
    with pytest.raises(AttributeError, match=r'did you mean mmkerv\.ops\.CoCConv\?'):
        mmkerv.CocConv  # noqa: B018
    with pytest.raises(AttributeError, match=r"^module 'mmkerv' has no attribute 'wings'$"):
        mmkerv.wings  # noqa: B018
