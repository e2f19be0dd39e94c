"""`mmkerv.register_operator`: what a registered class gets, what is refused, and that it can be undone."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

import mmkerv
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.operator_table import OPERATORS, operator_class, operator_name
from mmkerv.ops import CoCConv2d, KervConv2d
from mmkerv.ops.core.base import Conv1d, Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.split import SplitKernel
from tests.ops.examples import GatedConv2d, MaskedConv2d, PowerConv2d, TwoBranchConv2d

ROOT = Path(__file__).parents[2]


def kernel(self):
    return -self.weight


def operator(*bases: type, **members) -> type:
    """A class of operators as a user's module would define it."""
    return type('MineConv2d', bases or (GeneratedKernel, Conv2d), {'_kernel': kernel, **members})


def test_the_class_stays_what_it_is_and_is_found_by_each_of_its_names():
    assert mmkerv.register_operator()(MaskedConv2d) is MaskedConv2d and MaskedConv2d.short_name == 'masked'
    assert 'MaskedConv' in mmkerv.list_operators()
    named = operator_class('MaskedConv')
    names = ['MaskedConv', 'mmkerv.MaskedConv', 'MaskedConv2d', 'masked', MaskedConv2d, named]
    path = f'{MaskedConv2d.__module__}.MaskedConv2d'
    assert {mmkerv.describe(name).name for name in [*names, path]} == {'MaskedConv'}
    assert operator_name(path) == operator_name(MaskedConv2d) == 'MaskedConv'
    found = mmkerv.describe('masked')
    assert found.arguments['sharpness'][0] == '1.0' and found.arguments['replace_1x1'] == (
        'False',
        'also replace 1x1 kernels',
    )
    assert found.rules == 'no weight decay: mask' and found.starts == 'as the plain convolution'
    assert 'Generated kernel' in str(found) and "type='mmkerv.MaskedConv'" in str(found)


@pytest.mark.parametrize('kind', ['MaskedConv', 'mmkerv.MaskedConv', 'tests.ops.examples.MaskedConv2d', MaskedConv2d])
def test_a_built_network_is_converted_and_folded(kind):
    mmkerv.register_operator()(MaskedConv2d)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1)).double()
    x = torch.randn(2, 3, 7, 7).double()
    plain = net(x)
    mmkerv.convert(net, {'type': kind, 'sharpness': 2.0})
    assert [type(layer).__name__ for layer in net] == ['MaskedConv2d', 'ReLU', 'Conv2d']
    assert torch.allclose(net(x), plain)
    nn.init.normal_(net[0].mask)
    changed = net(x)
    assert not torch.allclose(changed, plain)
    assert mmkerv.ops.switch_to_deploy(net).replaced == ['0']
    assert torch.allclose(net(x), changed)


def test_the_rule_for_1x1_is_that_of_the_class():
    mmkerv.register_operator()(MaskedConv2d)
    mmkerv.register_operator('EveryConv')(operator(takes_1x1=True))
    masked, every = operator_class('MaskedConv'), operator_class('EveryConv')
    assert type(masked(8, 8, 1)) is nn.Conv2d and type(masked(8, 8, 1, replace_1x1=True)) is MaskedConv2d
    assert type(every(8, 8, 1)).__name__ == 'MineConv2d'
    with pytest.raises(ArgumentTypeError, match="EveryConv has no argument 'replace_1x1'"):
        every(8, 8, 1, replace_1x1=True)


def test_every_family_and_way_to_write_it():
    for kind in (TwoBranchConv2d, GatedConv2d, PowerConv2d):
        assert mmkerv.register_operator(kind) is kind
        assert mmkerv.describe(kind).name == kind.__name__.removesuffix('2d')
    mmkerv.register_operator(name='Sharp')(operator(__doc__='Sharp.'))
    assert mmkerv.describe('sharp').summary == 'Sharp.'

    @mmkerv.register_operator('OwnRule')
    class OwnRuleConv(PlainFor1x1):
        operator = MaskedConv2d

    assert operator_class('OwnRule') is OwnRuleConv and OwnRuleConv.short_name == 'masked'
    mmkerv.register_operator()(type('LineConv1d', (GeneratedKernel, Conv1d), {'_kernel': kernel}))
    assert operator_class('LineConv1d').dims == 1 and mmkerv.describe('LineConv1d').cost is not None


def test_a_name_that_ends_in_2d_is_kept():
    mmkerv.register_operator('Mine2d')(operator())
    assert operator_name('Mine2d') == 'Mine2d' and mmkerv.describe('Mine2d').name == 'Mine2d'


def test_a_class_derived_from_an_operator_has_names_of_its_own():
    mmkerv.register_operator()(type('MyCoCConv2d', (CoCConv2d,), {}))
    mmkerv.register_operator()(type('MyKervConv2d', (KervConv2d,), {}))
    assert mmkerv.describe('mycoc').name == 'MyCoCConv' and mmkerv.describe('coc').name == 'CoCConv'
    net = mmkerv.convert(nn.Sequential(nn.Conv2d(4, 8, 3)), {'type': 'MyCoCConv', 'association': 3})
    assert type(net[0]).__name__ == 'MyCoCConv2d' and mmkerv.models.inventory.config_name(net[0]) == 'MyCoCConv'
    assert mmkerv.models.inventory.config_name(CoCConv2d(4, 8, 3)) == 'CoCConv'
    assert type(operator_class('MyKervConv')(4, 8, 3, degree=2)).__name__ == 'MyKervConv2d'


def test_another_name_for_the_layers_of_an_operator():
    named = type('WideCoCConv', (PlainFor1x1,), {'operator': CoCConv2d, '__doc__': 'CoC.'})
    mmkerv.register_operator()(named)
    mmkerv.register_operator('FirstConv')(MaskedConv2d)
    mmkerv.register_operator('SecondConv')(MaskedConv2d)
    assert [mmkerv.describe(short).name for short in ('widecoc', 'masked', 'second')] == [
        'WideCoCConv',
        'FirstConv',
        'SecondConv',
    ]
    assert operator_name(CoCConv2d) == 'CoCConv' and operator_name(MaskedConv2d) == 'FirstConv'


@pytest.mark.parametrize('removed', ['FirstConv', 'SecondConv'])
@pytest.mark.parametrize('members', [{}, {'takes_1x1': True, '__init__': lambda self, *sizes: None}])
def test_one_of_two_names_is_undone(members, removed):
    kind = operator(**members)
    for name in ('FirstConv', 'SecondConv'):
        mmkerv.register_operator(name)(kind)
    assert operator_name(kind) == 'FirstConv'
    mmkerv.unregister_operator(removed)
    (left,) = {'FirstConv', 'SecondConv'} - {removed}
    assert operator_name(kind) == left
    mmkerv.unregister_operator(left)
    assert operator_name(kind) is None


def test_a_class_without_a_docstring_is_described():
    mmkerv.register_operator()(operator())
    assert str(mmkerv.describe('mine')).startswith('MineConv: its class has no docstring\n\narguments')


def test_it_can_be_undone_and_done_again():
    before = dict(OPERATORS)
    for name in ('MaskedConv', MaskedConv2d):
        mmkerv.register_operator()(MaskedConv2d)
        mmkerv.unregister_operator(name)
        assert before == OPERATORS and operator_name(MaskedConv2d) is None
    with pytest.raises(ArgumentError, match=r"'MaskedConv' was not registered with register_operator; those are: none"):
        mmkerv.unregister_operator('MaskedConv')


def test_a_class_that_is_defined_again_replaces_the_one_before():
    mmkerv.register_operator()(operator())
    again = operator(takes_1x1=True)
    mmkerv.register_operator()(again)
    assert operator_class('MineConv').operator is again


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        (nn.Conv2d, ['Conv2d is no operator, it derives from torch.nn.modules.conv._ConvNd', 'docs/own_kernel.md']),
        (nn.Linear, ['Linear is no operator, it derives from torch.nn.modules.module.Module', 'docs/custom_operator']),
        (type('Both2d', (GeneratedKernel, Conv2d, nn.Conv2d), {}), ['Both2d is no operator', 'torch.nn']),
        (GeneratedKernel, ['GeneratedKernel is no operator', 'builtins.object']),
        (3, ['needs a class, got 3', 'derive from a family (GeneratedKernel, Branches,']),
    ],
    ids=['torch', 'module', 'both', 'mixin', 'number'],
)
def test_what_is_no_operator_is_refused(kind, words):
    with pytest.raises(ArgumentTypeError) as caught:
        mmkerv.register_operator()(kind)
    for word in words:
        assert word in str(caught.value)


def constructor(self, *args, **kwargs):
    Conv2d.__init__(self, *args, **kwargs)


FAULTS = {
    'kernel': ((GeneratedKernel, Conv2d), {'_kernel': GeneratedKernel._kernel}, 'it must implement _kernel, see '),
    'order': ((Conv2d, GeneratedKernel), {}, 'its family comes first: class MineConv2d(GeneratedKernel, Conv2d)'),
    'forward': ((Conv2d,), {}, 'it must implement forward(input)'),
    'kernel-less': ((Conv2d,), {'has_weight': False, 'forward': kernel}, 'it has neither a weight nor a kernel'),
    'parameter': ((SplitKernel, Conv2d), {}, 'with has_weight = False it must implement _parameter()'),
    'constructor': ((), {'__init__': constructor}, 'declare its arguments in Options, not in a constructor of its own'),
    'no_decay': ((), {'no_decay': 'mask'}, "no_decay must be a tuple of names, such as ('mask',), got 'mask'"),
    'norm': ((), {'norm_parameters': (3,)}, 'norm_parameters must be a tuple of names'),
    'lr_mult': ((), {'lr_mult': {'a': 0}}, "lr_mult must be a dict of factors > 0, such as {'positions': 5.0}"),
    'takes_1x1': ((), {'takes_1x1': 1}, 'takes_1x1 must be True or False, got 1'),
    'start': ((), {'starts_as_identity': kernel}, 'starts_as_identity must be a property: write @property above it'),
    'short name': ((), {'short_name': 'My'}, "short_name must be a word of small letters, digits and _, such as 'my'"),
    'taken short name': ((), {'short_name': 'coc'}, "the short name 'coc' is that of CoCConv; set another one"),
    'plain': ((), {'short_name': 'plain'}, "the short name 'plain' is that of the network without an operator"),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_missing_or_wrong_fact_is_named(fault):
    bases, members, message = FAULTS[fault]
    before = dict(OPERATORS)
    with pytest.raises(ArgumentError) as caught:
        mmkerv.register_operator()(operator(*bases, **members))
    assert str(caught.value).startswith('register_operator: MineConv2d: ') and message in str(caught.value)
    assert before == OPERATORS


def test_all_faults_are_named_at_once():
    with pytest.raises(ArgumentError, match=r'no_decay must .*; lr_mult must .*; the short name'):
        mmkerv.register_operator()(operator(no_decay='a', lr_mult=1, short_name='coc'))


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict, ArgumentTypeError, r'MineConv2d.Options must be a class derived from typing.NamedTuple'),
        (NamedTuple('O', [('sigma', float)]), ArgumentError, r"every option needs a default, 'sigma' has none"),
        (NamedTuple('O', [('stride', int)]), ArgumentError, r"cannot have 'stride', which every convolution has"),
        (
            NamedTuple('O', [('replace_1x1', bool)]),
            ArgumentError,
            r"cannot have 'replace_1x1', which every",
        ),
        (NamedTuple('O', []), ArgumentTypeError, r'MineConv2d.Options needs a method checked\(\)'),
    ],
    ids=['class', 'default', 'stride', 'replace_1x1', 'checked'],
)
def test_options_are_checked_when_the_class_is_defined(options, error, message):
    with pytest.raises(error, match=message):
        operator(Options=options)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('CoCConv', r"the name 'CoCConv' is taken by the operator CoCConv of mmkerv\.ops\.coc; give another one"),
        ('CoCConv2d', r'is taken by the operator CoCConv2d of mmkerv'),
        ('cocconv', r'is taken by the operator CoCConv of'),
        ('FoldedConv', r'is taken by the operator FoldedConv'),
        ('my conv', r"must be a word of letters, digits and _, got 'my conv'"),
        ('', r"must be a word of letters, digits and _, got ''"),
    ],
)
def test_a_taken_or_impossible_name_is_refused(name, message):
    with pytest.raises(ArgumentError, match=message):
        mmkerv.register_operator(name)(operator())


def test_the_name_of_another_class_of_the_user_is_refused():
    mmkerv.register_operator('MineConv')(MaskedConv2d)
    with pytest.raises(ArgumentError, match=r"'MineConv' is taken by tests\.ops\.examples\.MaskedConv2d and"):
        mmkerv.register_operator()(operator())
    with pytest.raises(ArgumentTypeError, match='name of an operator must be a text, got 3'):
        mmkerv.register_operator(3)


@pytest.mark.parametrize('name', ['Conv2d', 'DCN', 'ConvWS', 'ReLU'])
def test_a_name_of_mmcv_is_refused(name):
    pytest.importorskip('mmcv.ops')
    with pytest.raises(ArgumentError, match=rf"the name '{name}' is taken by [\w.]+; give another one"):
        mmkerv.register_operator(name)(MaskedConv2d)


def test_mmengine_builds_it_and_forgets_it():
    pytest.importorskip('mmengine')
    from mmengine.registry import MODELS

    mmkerv.register_operator()(MaskedConv2d)
    for name in ('MaskedConv', 'mmkerv.MaskedConv'):
        assert type(MODELS.build({'type': name, 'in_channels': 3, 'out_channels': 8, 'kernel_size': 3})) is MaskedConv2d
    mmkerv.unregister_operator('MaskedConv')
    assert 'MaskedConv' not in MODELS and 'MaskedConv' not in mmkerv.registry.MODELS


BEFORE_MMENGINE = """
import sys
import mmkerv
from torch import nn
from tests.ops.examples import MaskedConv2d
mmkerv.register_operator()(MaskedConv2d)
assert not sys.modules.get('mmengine')
net = mmkerv.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), dict(type='MaskedConv'))
assert type(net[0]) is MaskedConv2d
try:
    import mmengine
except ImportError:
    sys.exit()
from mmengine.registry import MODELS
assert type(MODELS.get('MaskedConv')(3, 8, 3)) is type(MODELS.get('mmkerv.MaskedConv')(3, 8, 3)) is MaskedConv2d
"""
BLOCKED = """
import sys
sys.modules['mmengine'] = None
"""


@pytest.mark.parametrize('start', ['', BLOCKED], ids=['before mmengine is imported', 'without mmengine'])
def test_torch_is_enough(start):
    code = textwrap.dedent(start + BEFORE_MMENGINE)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
