"""SMPConv2d: the notes' numbers of both published forms, points at their limits, the plain start."""

import pytest
import torch
from torch import nn

from mmkerv.ops import SMPConv2d
from mmkerv.ops.smpconv import point_kernel
from tests.ops.contract import relative
from tests.ops.family_contracts import BranchesContract
from tests.ops.oracle import convolution
from tests.ops.test_dcls import fill


class TestSMPWithNorms(BranchesContract):
    operator = SMPConv2d
    options = {'points': 6, 'radius': 1.5, 'positions_std': 0.4}

    def expected(self, op, x):
        y = torch.from_numpy(convolution(op, x)[0])
        shift = 0
        for branch in (op.basic, op.large):
            norm = branch.norm.double()
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            shift = shift + norm.bias - norm.running_mean * scale
        return y + shift.detach().view(-1, 1, 1)


def published_positions(coordinates: torch.Tensor) -> torch.Tensor:
    """The public code has x to the right, then y upwards."""
    return torch.stack([-coordinates[..., 1], coordinates[..., 0]])


def test_the_published_numbers_of_the_form_for_imagenet():
    radius = torch.tensor([[0.3, 0.5, 0.7, 0.9, 0.6]], dtype=torch.float64)
    kernel = point_kernel(fill((2, 1, 5), 1, 2), published_positions(fill((1, 5, 2), 0.8, 1)), radius, (7, 7))
    assert abs(float(kernel.sum()) + 7.457744) < 1e-6 and abs(float(kernel.abs().sum()) - 11.301836) < 1e-6
    row = torch.tensor([-0.263375, -0.406505, -0.046123, 0, -0.075044, 0, 0], dtype=torch.float64)
    assert (kernel[0, 0, 3] - row).abs().max() < 1e-6


def test_the_published_numbers_of_the_form_for_cifar():
    radius = torch.tensor([0.3, 0.5, 0.7, 0.9, 0.6], dtype=torch.float64).expand(3, 5)
    kernel = point_kernel(fill((3, 2, 5), 1, 2), published_positions(fill((3, 5, 2), 0.8, 1)), radius, (7, 7), True)
    assert abs(float(kernel.sum()) + 5.572849) < 1e-5 and abs(float(kernel.abs().sum()) - 29.422997) < 1e-5
    row = torch.tensor([0.049370, 0.142166, 0, 0, 0.400177, 0.457435, 0], dtype=torch.float64)
    assert (kernel[1, 0, 3] - row).abs().max() < 1e-6


def test_a_point_on_every_tap_is_any_kernel():
    grid = torch.linspace(-1, 1, 5, dtype=torch.float64)
    positions = torch.stack(torch.meshgrid(grid, grid, indexing='ij')).view(2, 1, 25)
    weight = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    kernel = point_kernel(weight.flatten(2), positions, torch.full((1, 25), 0.5, dtype=torch.float64), (5, 5))
    assert torch.allclose(kernel, weight, atol=1e-12)


def test_a_point_always_reaches_a_tap():
    op = SMPConv2d(4, 4, 3, padding=1, groups=4, kernel_extent=31, radius=0.001, points=20, branch_norm=None)
    with torch.no_grad():
        op.positions.mul_(10)
        op.large.branch_scale.fill_(1)
    op.kernel().square().sum().backward()
    assert (op.values.grad != 0).all() and (op.positions.grad != 0).any(0).all()


def test_starts_as_the_plain_convolution_and_everything_learns():
    plain, op = nn.Conv2d(4, 6, 3, padding=1), SMPConv2d(4, 6, 3, padding=1, kernel_extent=9, branch_norm=None)
    op.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 9, 9)
    assert op.starts_as_identity and torch.allclose(op(x), plain(x), atol=1e-6)
    before = {name: p.clone() for name, p in op.named_parameters()}
    optimizer = torch.optim.SGD(op.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        op(x).square().sum().backward()
        optimizer.step()
    assert all((p != before[name]).any() for name, p in op.named_parameters())


@pytest.mark.parametrize('mode', ['zeros', 'reflect', 'replicate', 'circular'])
def test_the_fold_is_exact(mode):
    torch.manual_seed(0)
    op = SMPConv2d(
        4, 4, 3, 2, 2, 2, 4, padding_mode=mode, kernel_extent=9, average=True, share=False, dtype=torch.float64
    )
    x = torch.randn(2, 4, 21, 19, dtype=torch.float64)
    op(x)
    op.eval()
    assert relative(op.to_conv2d()(x), op(x)) < 1e-12


@pytest.mark.parametrize('size', [(1, 31), (31, 1), (1, 5)])
def test_every_point_of_a_strip_reaches_a_tap(size):
    torch.manual_seed(0)
    op = SMPConv2d(4, 4, size, padding=(size[0] // 2, size[1] // 2), groups=4, points=20, branch_norm=None)
    nn.init.uniform_(op.positions, -1, 1)
    op.large.branch_scale.data.fill_(1)
    op.kernel().square().sum().backward()
    assert op.values.grad.abs().amax((0, 1)).min() > 0
