"""DCLSConv2d: the notes' numbers, the grid, derivatives at kinks, parity with the public implementation."""

import functools

import pytest
import torch
from torch import nn

from mmkerv import convert
from mmkerv.errors import ArgumentError
from mmkerv.ops import DCLSConv, DCLSConv2d, ReparamConv, ReparamConv2d, SMPConv, SMPConv2d
from mmkerv.ops.dcls import VERSIONS, interpolated_kernel
from tests.ops.static_oracle import dcls_kernel

# sum(y) and y[0, 1, 4, 4] of the public implementation, for the filled parameters below.
PUBLISHED = {
    'v0': (152.65030, 2.159021),
    'v1': (148.88156, -0.676826),
    'max': (148.86748, 0.150614),
    'gauss': (149.33389, 0.257968),
}


def fill(shape: tuple[int, ...], scale: float, offset: float) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return (scale * torch.sin(torch.arange(count, dtype=torch.float64) + offset)).view(shape)


def filled(version: str) -> DCLSConv2d:
    op = DCLSConv2d(2, 3, 7, padding=3, version=version, points=3, positions_init='normal', dtype=torch.float64)
    # The public code puts rows first in version 0 only.
    positions = fill((2, 3, 2, 3), 2.4, 2)
    widths = fill((2, 3, 2, 3), 0.6, 3)
    with torch.no_grad():
        op.values.copy_(fill((3, 2, 3), 1, 1))
        op.positions.copy_(positions if version == 'v0' else positions.flip(0))
        op.bias.copy_(fill((3,), 1, 1))
        if op.width is not None:
            op.width.copy_(widths.flip(0))
    return op


@pytest.mark.parametrize('version', VERSIONS)
def test_the_published_numbers(version):
    y = filled(version)(fill((1, 2, 9, 9), 1, 1))
    total, one = PUBLISHED[version]
    assert abs(y.sum().item() - total) < 1e-4 and abs(y[0, 1, 4, 4].item() - one) < 1e-5


@pytest.mark.parametrize('version', VERSIONS)
def test_parity_with_the_public_implementation(version):
    modules = pytest.importorskip('DCLS.construct.modules')
    torch.manual_seed(0)
    theirs = modules.Dcls2d(4, 6, 5, padding=3, dilated_kernel_size=7, groups=2, version=version)
    op = DCLSConv2d(4, 6, 7, padding=3, groups=2, version=version, points=5, positions_init='normal')
    with torch.no_grad():
        op.values.copy_(theirs.weight)
        op.positions.copy_(theirs.P if version == 'v0' else theirs.P.flip(0))
        op.bias.copy_(theirs.bias)
        if op.width is not None:
            op.width.copy_(theirs.SIG.flip(0))
    x = torch.randn(2, 4, 9, 9)
    assert (op(x) - theirs(x)).abs().max() < 1e-5


@pytest.mark.parametrize('version', VERSIONS)
def test_kernel_against_loops(version):
    torch.manual_seed(0)
    op = DCLSConv2d(2, 4, 3, padding=1, groups=2, version=version, kernel_extent=(7, 5), dtype=torch.float64)
    with torch.no_grad():
        for parameter in op.own_parameters().values():
            parameter.add_(torch.randn_like(parameter))
    assert abs(op.kernel().detach().numpy() - dcls_kernel(op)).max() < 1e-12
    conv = op.to_conv2d()
    x = torch.randn(2, 2, 8, 9, dtype=torch.float64)
    assert conv.kernel_size == (7, 5) and (conv(x) - op(x)).abs().max() < 1e-12


def test_starts_as_the_plain_convolution_with_a_larger_extent():
    plain = nn.Conv2d(4, 8, 3, 2, 1, bias=False)
    op = DCLSConv2d(4, 8, 3, 2, 1, bias=False, kernel_extent=9)
    op.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 11, 12)
    assert op.starts_as_identity and torch.allclose(op(x), plain(x), atol=1e-6)


def test_whole_numbers_as_positions_are_a_dilated_convolution():
    op = DCLSConv2d(2, 4, 3, padding=3, kernel_extent=7, dtype=torch.float64)
    with torch.no_grad():
        op.positions.mul_(3)
    dilated = nn.Conv2d(2, 4, 3, padding=op.padding, dilation=3, dtype=torch.float64)
    dilated.load_state_dict({'weight': op.weight, 'bias': op.bias})
    x = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    assert torch.allclose(op(x), dilated(x), atol=1e-12)


def test_identities_of_the_versions():
    torch.manual_seed(0)
    values, positions = torch.randn(3, 2, 4, dtype=torch.float64), torch.randn(2, 3, 2, 4, dtype=torch.float64)
    widths = torch.zeros_like(positions)
    kernels = {}
    for version in VERSIONS:
        width = widths if version in ('max', 'gauss') else None
        kernels[version] = interpolated_kernel(values, positions, (9, 9), version, width)
    assert torch.equal(kernels['max'], kernels['v1'])
    for version in ('v1', 'max', 'gauss'):
        assert torch.allclose(kernels[version].sum((2, 3)), values.sum(2), atol=1e-5)
    shift = torch.tensor([1.0, -2.0], dtype=torch.float64).view(2, 1, 1, 1)
    moved = interpolated_kernel(values, positions + shift, (9, 9))
    assert torch.allclose(moved[:, :, 1:, :-2], kernels['v0'][:, :, :-1, 2:], atol=1e-12)


@pytest.mark.parametrize('version', ['v0', 'max'])
def test_the_derivative_at_whole_numbers_is_the_mean_of_the_one_sided_ones(version):
    values = torch.ones(1, 1, 1, dtype=torch.float64)
    width = torch.zeros(2, 1, 1, 1, dtype=torch.float64) if version == 'max' else None
    seen = torch.randn(5, 5, dtype=torch.float64)

    def loss(position: torch.Tensor) -> torch.Tensor:
        return (interpolated_kernel(values, position.view(2, 1, 1, 1), (5, 5), version, width) * seen).sum()

    position = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(position), position)
    for axis in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[axis] = 1e-6
        quotient = (loss(position + step) - loss(position - step)) / 2e-6
        assert abs(float(gradient[axis] - quotient)) < 1e-6 and abs(float(quotient)) > 1e-3


def test_everything_moves_from_the_grid():
    op = DCLSConv2d(2, 4, 3, padding=1, kernel_extent=5, version='max')
    before = {name: p.clone() for name, p in op.named_parameters()}
    optimizer, x = torch.optim.SGD(op.parameters(), lr=0.1), torch.randn(2, 2, 7, 7)
    for _ in range(2):
        optimizer.zero_grad()
        op(x).square().sum().backward()
        optimizer.step()
    assert all((p != before[name]).any() for name, p in op.named_parameters())


def test_positions_outside_count_as_at_the_edge_and_come_back():
    op = DCLSConv2d(1, 1, 1, padding=1, kernel_extent=3, dtype=torch.float64)
    with torch.no_grad():
        op.weight.fill_(1)
        op.positions.fill_(5)
    assert op.kernel()[0, 0, 2, 2] == 1
    op.kernel()[0, 0, 0, 2].backward()
    op.zero_grad()
    (op.kernel()[0, 0, 2, 1] + op.kernel()[0, 0, 1, 2]).backward()
    assert (op.positions.grad < 0).all()


def test_bad_arguments_name_the_cure():
    with pytest.raises(ArgumentError, match="positions_init='normal'"):
        DCLSConv2d(4, 8, 3, points=4)
    with pytest.raises(ArgumentError, match='odd'):
        DCLSConv2d(4, 8, 4)
    with pytest.raises(ArgumentError, match='even size'):
        DCLSConv(4, 8, 4, padding=1, kernel_extent=7)
    with pytest.raises(RuntimeError, match='points'):
        DCLSConv2d(4, 8, 3).load_state_dict({'values': torch.zeros(8, 4, 9)})


@pytest.mark.parametrize(
    'kind', [DCLSConv2d, functools.partial(ReparamConv2d, preset='repvgg'), SMPConv2d], ids=['dcls', 'reparam', 'smp']
)
@pytest.mark.parametrize('extent', [3, (5, 3), (3, 7)])
def test_an_extent_that_does_not_hold_the_basic_kernel_is_refused(kind, extent):
    """The outer taps would be moved inwards, and the layer would not start as the plain convolution."""
    with pytest.raises(ArgumentError, match=r'kernel_extent must be at least the kernel size \(5, 5\), .* use \('):
        kind(4, 8, 5, padding=2, kernel_extent=extent)


def test_taps_at_random_positions_need_no_grid():
    assert DCLSConv2d(4, 8, 5, padding=2, kernel_extent=3, positions_init='normal').kernel_size == (3, 3)


@pytest.mark.parametrize('geometry', [dict(padding='same'), dict(padding=3, dilation=2)], ids=['same', 'dilated'])
@pytest.mark.parametrize('kind', [DCLSConv, ReparamConv, SMPConv])
def test_an_even_kernel_has_no_odd_extent(kind, geometry):
    with pytest.raises(ArgumentError, match=r'kernel_size must be odd for a centred kernel, got \(4, 4\)'):
        kind(4, 4, 4, kernel_extent=7, **geometry)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 4, **geometry))
    net = convert(net, dict(type=kind.__name__, kernel_extent=7))
    assert type(net[0]).__name__ == f'{kind.__name__}2d' and type(net[1]) is nn.Conv2d
