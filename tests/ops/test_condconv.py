"""CondConv2d: its contract, its plain start, the notes' numbers, parity with timm, other libraries' layouts."""

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops import CondConv, CondConv2d
from tests.ops.contract import relative
from tests.ops.family_contracts import DynamicContract
from tests.ops.oracle import convolution
from tests.ops.test_fdconv import SHAPES, moved

ODCONV = {'routing': 'softmax', 'channel': True, 'filter': True, 'spatial': True, 'reduction': 1 / 16}


class TestCondConv(DynamicContract):
    operator = CondConv2d
    options = {'experts': 3}

    def make(self, *args, **kwargs):
        return moved(super().make(*args, **kwargs))

    def expected(self, op, x):
        return torch.from_numpy(convolution(op, x)[0])


class TestWithAllGates(TestCondConv):
    options = {**ODCONV, 'temperature': 2.0}


@pytest.mark.parametrize('case', SHAPES)
@pytest.mark.parametrize('options', [{}, {'routing': 'softmax', 'experts': 3}, ODCONV], ids=['cond', 'softmax', 'od'])
def test_starts_as_the_plain_convolution_and_everything_learns(case, options):
    geometry, settings = SHAPES[case]
    torch.manual_seed(0)
    plain, op = nn.Conv2d(*geometry, **settings), CondConv2d(*geometry, **settings, **options)
    op.load_state_dict(plain.state_dict())
    x = 3 * torch.randn(2, geometry[0], 9, 8)
    for training in (True, False):
        assert op.starts_as_identity and relative(op.train(training)(x.relu()), plain(x.relu())) < 1e-6
    before = {name: p.clone() for name, p in op.named_parameters()}
    optimizer = torch.optim.SGD(op.parameters(), lr=0.3)
    for step in range(3):
        optimizer.zero_grad()
        op(x).square().mean().backward()
        if not step:
            plain(x).square().mean().backward()
            assert relative(op.weight.grad, plain.weight.grad) < 1e-5
        optimizer.step()
    assert [name for name, p in op.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize(
    ('size', 'options'),
    [
        (1, {'kernel': False, 'spatial': True, 'reduction': 1 / 16}),
        (1, ODCONV),
        (3, {'kernel': False, 'spatial': True, 'reduction': 1 / 16}),
        (3, {'routing': 'given', 'filter': True, 'reduction': 1 / 16}),
        (3, {'routing': 'given'}),
    ],
    ids=['spatial 1x1', 'all 1x1', 'spatial', 'given and filters', 'given'],
)
def test_every_parameter_gets_a_gradient(size, options):
    op, given = CondConv2d(16, 16, size, **options), options.get('routing') == 'given'
    op(torch.randn(2, 16, 5, 5), *([torch.rand(2, 4)] if given else [])).square().sum().backward()
    assert [name for name, p in op.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('option', [{'reduction': 1 / 16}, {'temperature': 7.0}], ids=['reduction', 'temperature'])
def test_options_of_gates_need_a_gate(option):
    with pytest.raises(ArgumentError, match=f"{next(iter(option))} is for gates .* with routing='given' and no other"):
        CondConv2d(16, 16, 3, routing='given', **option)
    CondConv2d(16, 16, 3, routing='given', filter=True, **option)


def published_layer() -> CondConv2d:
    """A layer with numbers that timm's class was run with."""
    op = CondConv2d(2, 3, 3, padding=1, experts=2, routing='given', dtype=torch.float64)
    experts = torch.sin(0.37 * torch.arange(108, dtype=torch.float64)).view(2, 54)
    op.load_state_dict({'weight': experts, 'bias': torch.tensor([[0.1, 0.2, 0.3], [-0.1, 0.0, 0.5]]).double()})
    return op


def test_the_published_numbers():
    op = published_layer()
    x = torch.cos(0.11 * torch.arange(64, dtype=torch.float64)).view(2, 2, 4, 4)
    y = op(x, torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    expected = [[7.739292, 7.142115, 5.570837], [-4.775799, -2.610814, 0.227531]]
    # They were computed in float32.
    assert (y[:, :, 1, 1] - torch.tensor(expected)).abs().max() < 1e-5
    assert abs(float(y.sum()) - 173.37701) < 1e-3


@pytest.mark.parametrize('routing', ['sigmoid', 'softmax'])
def test_with_half_the_sum_of_the_experts_it_is_the_papers_form(routing):
    torch.manual_seed(0)
    op, x = moved(CondConv2d(4, 6, 3, routing=routing, dtype=torch.float64)), torch.randn(2, 4, 7, 7).double()
    op.load_state_dict({**op.state_dict(), 'weight': op.experts.clone(), 'bias': op.expert_bias.clone()})
    logits = torch.nn.functional.linear(x.mean((2, 3)), op.route.weight, op.route.bias)
    r = logits.sigmoid() if routing == 'sigmoid' else logits.softmax(1)
    for sample, weights in enumerate(r):
        kernel = torch.einsum('e,eoihw->oihw', weights, op.experts.view(-1, *op.weight.shape))
        expected = torch.conv2d(x[sample : sample + 1], kernel, weights @ op.expert_bias)
        assert relative(op(x)[sample : sample + 1], expected) < 1e-12


def test_a_given_routing_replaces_that_of_the_layer():
    op, x = moved(CondConv2d(4, 6, 3)), torch.randn(2, 4, 7, 7)
    r = torch.nn.functional.linear(x.mean((2, 3)), op.route.weight, op.route.bias).sigmoid()
    assert relative(op(x, r), op(x)) < 1e-5 and relative(op(x, routing=1 - r), op(x)) > 1e-3
    with pytest.raises(ArgumentError, match=r'\(2, 4\), got \(2, 3\)'):
        op(x, r[:, :3])
    with pytest.raises(ArgumentError, match='call forward'):
        CondConv2d(4, 6, 3, routing='given')(x)
    with pytest.raises(ArgumentError, match='kernel=False'):
        CondConv2d(4, 6, 3, kernel=False, filter=True)(x, r)
    with pytest.raises(ArgumentError, match="routing='given'"):
        CondConv2d(4, 6, 3, kernel=False, filter=True, routing='given')


@pytest.mark.parametrize('groups', [1, 4], ids=['dense', 'depthwise'])
def test_reads_the_layout_of_tensorflow(groups):
    torch.manual_seed(0)
    op = CondConv2d(4, 8, (3, 5), groups=groups, experts=2)
    # (kH, kW, C, O), or (kH, kW, C, O / C) of a depthwise one.
    kernels = torch.randn(2, 3, 5, 4, 8 // groups)
    op.load_state_dict({**op.state_dict(), 'condconv_kernel': kernels.flatten(1), 'condconv_bias': torch.randn(2, 8)})
    for expert, kernel in zip(op.experts.view(2, *op.weight.shape), kernels):
        for o, i, a, b in torch.cartesian_prod(*map(torch.arange, op.weight.shape)).tolist():
            channel, output = (o // 2, o % 2) if groups == 4 else (i, o)
            assert expert[o, i, a, b] == kernel[a, b, channel, output]
    assert torch.allclose(op.weight, op.experts.sum(0).view(op.weight.shape) / 2)


def test_a_plain_state_dict_and_its_own_stay_as_they_are():
    op, other = moved(CondConv2d(4, 4, 1, experts=4)), CondConv2d(4, 4, 1, experts=4)
    other.load_state_dict(op.state_dict())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in op.state_dict().items())
    before = op.experts.clone()
    op.load_state_dict(nn.Conv2d(4, 4, 1).state_dict())
    assert torch.equal(op.experts, before)


def test_a_layer_of_timm_exchanged_for_ours_gives_its_outputs():
    layers = pytest.importorskip('timm.layers')
    torch.manual_seed(0)
    for geometry, settings in SHAPES.values():
        if isinstance(geometry[2], tuple) or 'padding_mode' in settings or not settings.get('bias', True):
            continue
        theirs = layers.CondConv2d(*geometry, **{'padding': 0, **settings}, bias=True, num_experts=3)
        ours = CondConv2d(*geometry, **settings, experts=3, routing='given')
        ours.load_state_dict(theirs.state_dict())
        x, r = torch.randn(2, geometry[0], 9, 8), torch.rand(2, 3)
        assert relative(ours(x, r), theirs(x, r)) < 1e-5


def test_a_network_of_timm_with_its_layers_exchanged_gives_its_outputs():
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    model = timm.create_model('efficientnet_cc_b0_4e').eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        for name, theirs in [(n, m) for n, m in model.named_modules() if type(m).__name__ == 'CondConv2d']:
            geometry = (theirs.in_channels, theirs.out_channels, theirs.kernel_size, theirs.stride)
            ours = CondConv2d(
                *geometry,
                theirs.padding,
                theirs.dilation,
                theirs.groups,
                bias=theirs.bias is not None,
                experts=theirs.num_experts,
                routing='given',
            )
            ours.load_state_dict(theirs.state_dict())
            parent, _, child = name.rpartition('.')
            setattr(model.get_submodule(parent), child, ours)
        assert sum(isinstance(m, CondConv2d) for m in model.modules()) > 10
        assert relative(model(x), expected) < 1e-4


def test_the_config_class_takes_every_layer():
    assert type(CondConv(3, 8, 1)) is CondConv2d and type(CondConv(8, 8, 3, groups=8, experts=2)) is CondConv2d
    with pytest.raises(TypeError, match='did you mean'):
        CondConv(3, 8, 3, expert=4)


@pytest.mark.parametrize(
    'options',
    [
        {'gate_norm': 'bn'},
        {'kernel': False, 'channel': True, 'experts': 9},
        {'kernel': False, 'channel': True, 'routing': 'softmax'},
    ],
    ids=['norm', 'experts', 'routing'],
)
def test_options_without_effect_are_refused(options):
    with pytest.raises(ValueError, match=r'leave \w+ out'):
        CondConv2d(4, 4, 3, **options)
