"""ShiftwiseConv2d: folding, orders that touch no global generator, extents that are no multiple of 3."""

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops import FoldedConv, ShiftwiseConv, ShiftwiseConv2d
from tests.ops.contract import relative
from tests.ops.static_oracle import shiftwise_kernel


def trained(extent: int, **settings) -> ShiftwiseConv2d:
    """A layer with norms as after training."""
    torch.manual_seed(0)
    op = ShiftwiseConv2d(8, 8, 3, padding=1, groups=8, kernel_extent=extent, dtype=torch.float64, **settings)
    with torch.no_grad():
        for name, value in op.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 2) if name.endswith('running_var') else value.add_(torch.randn_like(value))
    return op.eval()


@pytest.mark.parametrize('mode', ['zeros', 'reflect', 'replicate', 'circular'])
@pytest.mark.parametrize('extent', [5, 7, 9, 13])
def test_the_fold_is_exact_and_what_the_shifts_add_up_to(extent, mode):
    op = trained(extent, padding_mode=mode)
    op.stride, op.dilation = (2, 2), (1, 1)
    x = torch.randn(2, 8, 21, 23, dtype=torch.float64)
    conv = op.to_conv2d()
    assert relative(conv(x), op(x)) < 1e-12
    assert abs(op.kernel().detach().numpy() - shiftwise_kernel(op)).max() < 1e-12
    with torch.no_grad():
        conv.weight[0, 0, 0, op.kernel_size[0] // 2] += 1e-6
    assert relative(conv(x), op(x)) > 1e-12


def test_the_output_is_that_of_the_shifted_small_convolutions():
    """Each small kernel convolves by itself, and its output is moved to its place."""
    op = trained(7)
    x = torch.randn(1, 8, 11, 12, dtype=torch.float64)
    small = sum(path.weight for path in op.paths)
    count, middle = 3, 7 // 2
    wide = nn.functional.pad(x, (30, 30, 30, 30))
    total = x.clone()
    for j, channel in enumerate(op.channels.tolist()):
        maps = nn.functional.conv2d(wide[:, channel : channel + 1], small[j * count : (j + 1) * count], padding=1)[0]
        for along, norm, axis in ((op.along_width, op.norm_width, 1), (op.along_height, op.norm_height, 0)):
            y = torch.zeros_like(maps[0])
            for r in range(op.options.repeats):
                for i in range(count):
                    # Tap b of the small kernel lies at 3 i + b - middle; conv2d has its middle tap at 0.
                    y += torch.roll(maps[along[r, j, i]], -(3 * i + 1 - middle), axis)
            total[:, channel] += evaluated(norm, y, j)[30:-30, 30:-30]
        y = sum(maps[op.centre[r, j]] for r in range(op.options.repeats))
        total[:, channel] += evaluated(op.norm_centre, y, j)[30:-30, 30:-30]
    assert relative(op(x), total + op.bias.view(-1, 1, 1)) < 1e-12


def evaluated(norm: nn.Module, y: torch.Tensor, channel: int) -> torch.Tensor:
    scale = norm.weight[channel] / (norm.running_var[channel] + norm.eps).sqrt()
    return (y - norm.running_mean[channel]) * scale + norm.bias[channel]


def test_the_orders_are_buffers_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    first = ShiftwiseConv2d(8, 8, 9, groups=8)
    after = torch.rand(1)
    torch.manual_seed(0)
    second = ShiftwiseConv2d(8, 8, 9, groups=8, seed=5)
    assert torch.equal(after, torch.rand(1))
    assert not torch.equal(first.along_width, second.along_width)
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 8, 9, 9)
    assert torch.equal(first.eval()(x), second.eval()(x))


def test_trains_and_everything_learns():
    op = ShiftwiseConv2d(8, 8, 9, padding=4, groups=8)
    before = {name: p.clone() for name, p in op.named_parameters()}
    optimizer, x = torch.optim.SGD(op.parameters(), lr=0.1), torch.randn(2, 8, 9, 9)
    for _ in range(2):
        optimizer.zero_grad()
        op(x).pow(3).sum().backward()
        optimizer.step()
    assert all((p != before[name]).any() for name, p in op.named_parameters())


@pytest.mark.parametrize(('extent', 'folded'), [(51, 51), (49, 53), (47, 49), (13, 17), (3, 3)])
def test_the_folded_kernel_has_an_odd_size_around_its_middle(extent, folded):
    op = ShiftwiseConv(8, 8, 3, 2, 1, groups=8, bias=False, kernel_extent=extent)
    assert op.kernel_size == (folded, folded) and op(torch.randn(1, 8, 9, 9)).shape == (1, 8, 5, 5)
    cfg = ShiftwiseConv.deploy_cfg(dict(type='ShiftwiseConv', kernel_extent=extent))
    built = FoldedConv(8, 8, 3, 2, 1, groups=8, bias=False, **{k: v for k, v in cfg.items() if k != 'type'})
    built.load_state_dict(op.eval().to_conv2d().state_dict())
    assert built.padding == op.padding


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'kernel_size': 7}, 'kernel_extent=7'),
        ({'kernel_size': (3, 9)}, 'odd multiple of 3'),
        ({'groups': 1}, 'depthwise'),
        ({'ghost': 0.9}, 'at least two channels'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        ShiftwiseConv2d(**{'in_channels': 8, 'out_channels': 8, 'kernel_size': 3, 'groups': 8, **arguments})
