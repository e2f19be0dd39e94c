"""Separable convolutions: the shared contract, float64 oracles of the composed kernels, folding and placement."""

import copy
import math

import pytest
import torch
from torch import nn

import mmkerv
from mmkerv.models import placement
from mmkerv.ops import (
    DepthwiseSeparableConv,
    DepthwiseSeparableConv2d,
    FoldedConv,
    SpatiallySeparableConv,
    SpatiallySeparableConv2d,
    StackedConv,
    StackedConv2d,
    frozen_kernels,
    switch_to_deploy,
)
from mmkerv.ops.separable.depthwise import depthwise_separable_kernel
from mmkerv.ops.separable.spatial import spatially_separable_kernel
from tests.ops.contract import relative
from tests.ops.folding_contract import WeightlessContract
from tests.ops.oracle import convolution, dense_kernel

FORMS = {'DepthwiseSeparableConv': 'depthwise', 'SpatiallySeparableConv': 'spatial'}
BOTH = pytest.mark.parametrize('name', FORMS)


def depthwise_oracle(depthwise, pointwise, groups):
    """Compose filter by filter and channel by channel."""
    outer, width = pointwise.shape[:2]
    kernel = torch.empty(outer, width, *depthwise.shape[2:], dtype=torch.float64)
    for o in range(outer):
        first = o // (outer // groups) * width
        for c in range(width):
            kernel[o, c] = pointwise[o, c, 0, 0].double() * depthwise[first + c, 0].double()
    return kernel


def spatial_oracle(vertical, horizontal, groups):
    """Compose filter by filter, channel by channel and tap by tap."""
    (outer, inner), width = horizontal.shape[:2], vertical.shape[1]
    kernel = torch.zeros(outer, width, vertical.shape[2], horizontal.shape[3], dtype=torch.float64)
    for o in range(outer):
        first = o // (outer // groups) * inner
        for c in range(width):
            for m in range(inner):
                kernel[o, c] += torch.outer(vertical[first + m, c, :, 0].double(), horizontal[o, m, 0].double())
    return kernel


class SeparableContract(WeightlessContract):
    """Compare the two convolutions of the layer with one convolution by a kernel composed in loops."""

    def kernel(self, op):
        raise NotImplementedError

    def expected(self, op, x):
        geometry = {key: getattr(op, key) for key in ('stride', 'padding', 'dilation', 'groups', 'padding_mode')}
        conv = nn.Conv2d(op.in_channels, op.out_channels, op.kernel_size, **geometry, bias=op.bias is not None).double()
        with torch.no_grad():
            conv.weight.copy_(self.kernel(op))
            if op.bias is not None:
                conv.bias.copy_(op.bias)
        return conv(x.double())

    @pytest.mark.parametrize('channels', [(4, 8), (8, 4), (6, 6)], ids=str)
    @pytest.mark.parametrize('size', [(5, 3), (2, 4), (1, 5), (7, 1)], ids=str)
    def test_the_composed_kernel_agrees_with_naive_loops(self, channels, size):
        for groups in (1, 2):
            op = self.make(*channels, size, groups=groups, dtype=torch.float64)
            assert relative(op.kernel(), self.kernel(op)) < 1e-14

    @pytest.mark.parametrize('size', [(5, 3), (2, 4), (1, 5), (7, 1)], ids=str)
    @pytest.mark.parametrize('mode', ['zeros', 'reflect', 'replicate', 'circular'])
    def test_two_convolutions_agree_with_the_dense_one_in_every_padding_mode(self, size, mode):
        op = self.make(4, 6, size, (1, 2), tuple(k // 2 for k in size), (2, 1), padding_mode=mode, dtype=torch.float64)
        x = self.input(2, 4, 17, 9, dtype=torch.float64)
        expected = self.expected(op, x)
        for layer in (op, op.to_conv2d(), op.to_conv2d(dense=True)):
            assert relative(layer(x), expected) < 1e-12

    def test_initial_kernel_has_variance_one_over_fan_in(self):
        kernel = self.make(64, 96, 5).kernel().detach()
        assert abs(float(kernel.var() * 64 * 5 * 5) - 1) < 0.1

    def test_the_kernel_of_half_precision_parameters_is_rounded_once(self):
        op = self.make(dtype=torch.bfloat16)
        assert torch.equal(op.kernel(), copy.deepcopy(op).float().kernel().bfloat16())

    def test_frozen_kernels_change_nothing(self):
        op, x = self.make(), self.input()
        with frozen_kernels(nn.Sequential(op)):
            op(x).sum().backward()
        assert all(p.grad is not None for p in op.parameters()), 'there is no kernel that could be stale'

    def test_dense_must_be_a_boolean(self):
        with pytest.raises(TypeError, match='dense must be True or False'):
            self.make().to_conv2d(dense='no')


class TestDepthwise(SeparableContract):
    operator = DepthwiseSeparableConv2d

    def kernel(self, op):
        return depthwise_oracle(op.depthwise, op.pointwise, op.groups)

    def test_folds_into_a_depthwise_and_a_1x1_convolution(self):
        op = self.make(padding=1, stride=2, dilation=2, groups=2, padding_mode='circular')
        depthwise, pointwise = op.to_conv2d()
        wanted = nn.Conv2d(4, 4, 3, 2, 1, 2, groups=4, padding_mode='circular', bias=False)
        assert depthwise.extra_repr() == wanted.extra_repr()
        assert pointwise.extra_repr() == nn.Conv2d(4, 8, 1, groups=2).extra_repr()

    def test_the_layer_agrees_with_the_mmcv_module_without_norm_and_activation(self):
        bricks = pytest.importorskip('mmcv.cnn')
        module = bricks.DepthwiseSeparableConvModule(4, 8, 3, 2, 1, act_cfg=None, bias=True).double()
        op = self.make(4, 8, 3, 2, 1, dtype=torch.float64)
        depthwise, pointwise = module.depthwise_conv.conv, module.pointwise_conv.conv
        with torch.no_grad():
            depthwise.weight.copy_(op.depthwise)
            depthwise.bias.zero_()
            pointwise.weight.copy_(op.pointwise)
            pointwise.bias.copy_(op.bias)
        x = self.input(dtype=torch.float64)
        assert relative(op(x), module(x)) < 1e-12

    def test_the_number_of_weights_agrees_with_the_paper(self):
        """c k^2 + c^2 weights instead of c^2 k^2."""
        op = DepthwiseSeparableConv2d(256, 256, 5, bias=False)
        assert sum(p.numel() for p in op.parameters()) == 256 * 25 + 256**2

    def test_two_identity_kernels_give_the_identity(self):
        op, x = self.make(4, 4, 3, padding=1, bias=False), self.input()
        with torch.no_grad():
            nn.init.dirac_(op.depthwise, groups=4)
            nn.init.dirac_(op.pointwise)
        assert torch.equal(op(x), x)


class TestSpatial(SeparableContract):
    operator = SpatiallySeparableConv2d

    def kernel(self, op):
        return spatial_oracle(op.vertical, op.horizontal, op.groups)

    def test_folds_into_a_vertical_and_a_horizontal_convolution(self):
        op = self.make(4, 8, (5, 3), (2, 1), (2, 0), (1, 2), groups=2, padding_mode='reflect')
        vertical, horizontal = op.to_conv2d()
        common = {'groups': 2, 'padding_mode': 'reflect'}
        wanted = nn.Conv2d(4, 4, (5, 1), (2, 1), (2, 0), (1, 1), bias=False, **common)
        assert vertical.extra_repr() == wanted.extra_repr()
        wanted = nn.Conv2d(4, 8, (1, 3), (1, 1), (0, 0), (1, 2), **common)
        assert horizontal.extra_repr() == wanted.extra_repr()

    def test_a_product_of_two_profiles_is_represented_exactly(self):
        op, x = self.make(1, 1, (3, 5), bias=False), self.input(1, 1, 9, 9)
        rows, columns = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
        with torch.no_grad():
            op.vertical.copy_(rows.view(1, 1, 3, 1))
            op.horizontal.copy_(columns.view(1, 1, 1, 5))
        assert torch.equal(op.kernel()[0, 0], torch.outer(rows, columns))
        assert relative(op(x), nn.functional.conv2d(x, torch.outer(rows, columns)[None, None])) < 1e-6

    @pytest.mark.parametrize('channels', [(3, 64), (64, 3), (16, 16)], ids=str)
    def test_has_fewer_weights_than_the_dense_convolution(self, channels):
        op = SpatiallySeparableConv2d(*channels, 3, bias=False)
        weights = sum(p.numel() for p in op.parameters())
        assert weights == 3 * min(channels) * sum(channels) <= 2 / 3 * math.prod(channels) * 9


def test_kernel_functions_support_groups():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(6, 1, 3, 5, generator=generator), torch.randn(4, 3, 1, 1, generator=generator)
    assert relative(depthwise_separable_kernel(first, second, 2), depthwise_oracle(first, second, 2)) < 1e-6
    first, second = torch.randn(6, 2, 3, 1, generator=generator), torch.randn(4, 3, 1, 5, generator=generator)
    assert relative(spatially_separable_kernel(first, second, 2), spatial_oracle(first, second, 2)) < 1e-6


PLAIN = {
    'DepthwiseSeparableConv': [(4, 8, 1), (4, 8, 3, 1, 0, 1, 4), (1, 8, 5)],
    'SpatiallySeparableConv': [(4, 8, 1), (4, 8, (1, 7)), (4, 8, (3, 1))],
}


@BOTH
def test_convolutions_with_nothing_to_separate_stay_plain(name):
    for arguments in PLAIN[name]:
        torch.manual_seed(0)
        conv = getattr(mmkerv.ops, name)(*arguments, bias=False)
        torch.manual_seed(0)
        assert type(conv) is nn.Conv2d and torch.equal(conv.weight, nn.Conv2d(*arguments, bias=False).weight)
        folded = getattr(mmkerv.ops, f'{name}2d')(*arguments).to_conv2d()
        assert type(folded) is nn.Conv2d, 'it folds into what the config builds'
        assert folded.extra_repr() == FoldedConv(*arguments, separable=FORMS[name]).extra_repr()


@BOTH
def test_config_classes_check_their_arguments(name):
    kind = getattr(mmkerv.ops, name)
    with pytest.raises(TypeError, match=f"{name} has no argument 'strides'; did you mean 'stride'"):
        kind(4, 8, 1, strides=2)
    with pytest.raises(ValueError, match='kernel_size'):
        kind(4, 8, (3, 3, 3))
    conv = kind(4, 8, (3, 5), (2, 1), 1, 2, 2, False, 'circular')
    assert (conv.stride, conv.groups, conv.bias, conv.padding_mode) == ((2, 1), 2, None, 'circular')


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 6, 1)
    ).eval()


@pytest.mark.parametrize(
    ('name', 'operators', 'line'),
    [
        ('DepthwiseSeparableConv', ['0'], '1 of 3 convolutions -> DepthwiseSeparableConv (7x7: 1); kept 2'),
        (
            'SpatiallySeparableConv',
            ['0', '2'],
            '2 of 3 convolutions -> SpatiallySeparableConv (7x7: 1, 3x3: 1); kept',
        ),
    ],
)
def test_convolutions_of_a_model_are_replaced_and_folded(name, operators, line, monkeypatch):
    lines = []
    monkeypatch.setattr(placement, 'log', lambda message, *_: lines.append(message))
    model, x = mmkerv.convert(network(), {'type': name}), torch.randn(2, 3, 16, 16)
    assert line in lines[0] and 'kernels are newly initialised' in lines[0]
    kind = getattr(mmkerv.ops, f'{name}2d')
    assert [key for key, m in model.named_modules() if isinstance(m, kind)] == operators
    expected = model(x)
    assert switch_to_deploy(model).replaced == operators
    assert relative(model(x), expected) < 1e-6
    deployed = mmkerv.convert(network(), {'type': 'FoldedConv', 'separable': FORMS[name]})
    deployed.load_state_dict(model.state_dict())
    assert torch.equal(deployed(x), model(x))
    assert deployed[0].in_channels == 3 and deployed[0].stride == (2, 2), 'hosts read these'


def test_where_excludes_layers_from_replacement():
    where = {'depthwise': False}
    model = mmkerv.convert(network(), {'type': SpatiallySeparableConv}, where)
    assert isinstance(model[0], SpatiallySeparableConv2d) and type(model[2]) is nn.Conv2d
    with pytest.raises(ValueError, match=r'selects only what it leaves plain \(1x1: 1\); select others$'):
        mmkerv.convert(network(), {'type': DepthwiseSeparableConv}, {'kernel_sizes': (1,)})


class TestStacked(WeightlessContract):
    """The contract's 3x3 kernel is a stack of one; the other tests have larger ones."""

    operator = StackedConv2d

    def expected(self, op, x):
        return torch.from_numpy(convolution(op, x)[0])

    @pytest.mark.parametrize('channels', [(4, 8), (8, 4), (6, 6)], ids=str)
    @pytest.mark.parametrize('size', [5, (7, 3), (1, 5), (5, 7)], ids=str)
    @pytest.mark.parametrize('groups', [1, 2])
    @pytest.mark.parametrize('mode', ['zeros', 'reflect', 'circular'])
    def test_the_stack_is_the_one_convolution_also_at_the_borders(self, channels, size, groups, mode):
        sides = (size, size) if isinstance(size, int) else size
        for geometry in (
            {'padding': tuple(k // 2 for k in sides), 'stride': (2, 1)},
            {'padding': 'same', 'dilation': (1, 2)},
            {'padding': 'valid'},
        ):
            op = self.make(*channels, size, groups=groups, padding_mode=mode, **geometry, dtype=torch.float64)
            x = self.input(2, channels[0], 15, 19, dtype=torch.float64)
            assert relative(op.kernel(), torch.from_numpy(dense_kernel(op))) < 1e-14
            expected = self.expected(op, x)
            for layer in (op, op.to_conv2d(), op.to_conv2d(dense=True)):
                assert relative(layer(x), expected) < 1e-12

    def test_one_by_one_padding_differs_at_the_borders_only(self):
        op, x = self.make(4, 4, 5, padding=2, bias=False), self.input(1, 4, 9, 9)
        y = nn.functional.conv2d(nn.functional.conv2d(x, op.kernel1, padding=1), op.kernel2, padding=1)
        assert relative(op(x)[..., 1:-1, 1:-1], y[..., 1:-1, 1:-1]) < 1e-5
        assert relative(op(x), y) > 0.01

    def test_has_the_weights_that_the_source_counts(self):
        for size, number in ((5, 2), (7, 3), (11, 5)):
            op = StackedConv2d(8, 8, size, bias=False)
            assert sum(p.numel() for p in op.parameters()) == number * 9 * 8 * 8

    def test_the_initial_kernel_keeps_the_scale_of_its_input(self):
        kernel = self.make(64, 96, 5).kernel().detach()
        assert abs(float(kernel.var() * 64 * 5 * 5) - 1) < 0.15

    def test_config_class_stacks_what_is_larger_than_3x3_and_odd(self):
        kinds = [type(StackedConv(8, 8, size)).__name__ for size in (1, 3, 4, 5, (1, 5), (3, 5))]
        assert kinds == ['Conv2d', 'Conv2d', 'Conv2d', 'StackedConv2d', 'StackedConv2d', 'StackedConv2d']
        with pytest.raises(ValueError, match='kernel_size must be odd'):
            StackedConv2d(8, 8, 4)

    def test_deploy_config_builds_what_the_fold_builds(self):
        op = self.make(4, 8, 5, padding=2, stride=2)
        cfg = StackedConv.deploy_cfg(dict(type='StackedConv'))
        built = FoldedConv(4, 8, 5, 2, 2, separable=cfg['separable'])
        assert [c.extra_repr() for c in built] == [c.extra_repr() for c in op.to_conv2d()]
        built.load_state_dict(op.to_conv2d().state_dict())
        assert relative(built(self.input()), op(self.input())) < 1e-6
