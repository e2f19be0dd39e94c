"""FlexConv as options of CKConv: MAGNet, a Gaussian mask with learned width, and the crop."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from mmkerv.errors import CheckpointMismatchError
from mmkerv.ops import CKConv, CKConv1d, CKConv2d, FlexConv
from mmkerv.ops.ckconv.mask import gaussian_mask
from tests.ops.ckconv.ck_operators import random_parameters, response_1d, response_2d, signal
from tests.ops.ckconv.ck_oracle import kernel_of, mask_at, sampled
from tests.ops.ckconv.test_conv2d import ContinuousContract
from tests.ops.contract import relative
from tests.ops.test_dcls import fill

FLEXIBLE = {'net': 'magnet', 'mask': 'gaussian', 'crop': 0.1}


class TestFlexible(ContinuousContract):
    """The mask of a 3x3 kernel reaches all taps, and each of its parameters has a gradient."""

    options = {'hidden': 2, 'method': 'direct', **FLEXIBLE, 'mask_init': 0.8}


class TestFlexibleSeparable(ContinuousContract):
    options = {'hidden': 2, 'method': 'direct', 'separable': True, **FLEXIBLE, 'mask_init': 0.8}


def flexible(*args, **kwargs) -> CKConv2d:
    torch.manual_seed(0)
    op = random_parameters(CKConv2d(*args, **{'hidden': 4, 'layers': 2, **FLEXIBLE, 'dtype': torch.float64, **kwargs}))
    if op.mask_params is not None:
        with torch.no_grad():
            op.mask_params[:, 0].uniform_(-0.5, 0.5)
            op.mask_params[:, 1].uniform_(1, 2)
    return op


@torch.no_grad()
def published() -> CKConv2d:
    """The layer of the notes' numbers: 2 to 3 channels, 9 x 9, hidden 4, two products; every parameter but the mask
    and the bias is filled in the authors' order: weights of the network, then the filters."""
    op = CKConv2d(2, 3, 9, hidden=4, layers=2, **FLEXIBLE, dtype=torch.float64)
    net = op.kernel_net
    parameters = [p for layer in net.layers for p in (layer.weight, layer.bias)]
    parameters += [p for wave in net.filters for p in (wave.mu, wave.gamma, wave.weight, wave.bias)]
    for index, parameter in enumerate(parameters):
        parameter.copy_(fill(parameter.shape, 0.5, 1 + 7 * index))
    op.mask_params.copy_(torch.tensor([[0.1, 0.3], [-0.2, 0.4]]))
    return op


def test_the_published_numbers():
    kernel = published().kernel().detach()
    rows = kernel.flatten(0, 1).abs().sum((0, 2)) > 0
    assert rows.tolist() == [False] * 2 + [True] * 5 + [False] * 2
    assert abs(float(kernel.sum()) - 1.812143) < 1e-6 and abs(float(kernel.abs().sum()) - 20.229959) < 1e-6
    row = [-0.002129, 0.005266, 0.033435, 0.073864, 0.090119, 0.066785, 0.031182, 0.009342, 0.001815]
    assert (kernel[1, 0, 4] - torch.tensor(row, dtype=torch.float64)).abs().max() < 1e-6


def test_the_published_sum_without_the_crop():
    op = published()
    op.options = op.options._replace(crop=None)
    assert abs(op.kernel().sum().item() - 1.897691) < 1e-6


@pytest.mark.parametrize(('width', 'taps'), [(0.075, 5), (0.15, 11), (0.3, 21), (0.5, 33)])
def test_the_published_sizes_of_a_kernel_of_33_samples(width, taps):
    op = CKConv2d(1, 1, 33, hidden=4, **FLEXIBLE, mask_init=width)
    nonzero = op.kernel()[0, 0] != 0
    assert int(nonzero.any(0).sum()) == int(nonzero.any(1).sum()) == taps


@pytest.mark.parametrize('net', ['mlp', 'magnet'])
@pytest.mark.parametrize(
    'settings',
    [
        {'kernel_size': (3, 7)},
        {'kernel_size': 1},
        {'groups': 2, 'layers': 3, 'crop': None},
        {'separable': True, 'groups': 2, 'kernel_size': 9},
        {'mask': None, 'crop': None},
    ],
    ids=str,
)
def test_kernel_values_are_those_of_the_definition(net, settings):
    op = flexible(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 5, 'net': net, **settings})
    assert relative(op.kernel(), torch.from_numpy(sampled(kernel_of(op), op.kernel_size))) < 1e-11


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('crop', [None, 0.1, 0.7])
def test_the_mask_agrees_with_the_oracle(causal, crop):
    positions = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    params = torch.tensor([[0.2, 0.3], [-0.4, 0.2]], dtype=torch.float64)
    mask = gaussian_mask(positions, *params.unbind(1), crop, causal)
    expected = [mask_at(p, params, crop, causal) for p in positions.tolist()]
    assert np.abs(mask.numpy() - expected).max() < 1e-14


def test_a_wide_mask_changes_nothing():
    masked = flexible(3, 4, 7)
    plain = CKConv2d(3, 4, 7, hidden=4, layers=2, net='magnet', dtype=torch.float64)
    plain.load_state_dict({k: v for k, v in masked.state_dict().items() if k != 'mask_params'})
    with torch.no_grad():
        masked.mask_params[:, 1] = 1e9
    assert torch.allclose(masked.kernel(), plain.kernel(), rtol=1e-12)


def test_a_constant_net_gives_a_separable_kernel():
    op = flexible(1, 1, 9, crop=None)
    with torch.no_grad():
        for wave in op.kernel_net.filters:
            wave.gamma.zero_()
            wave.weight.zero_()
            wave.bias.fill_(math.pi / 2)
    kernel = op.kernel()[0, 0]
    assert torch.linalg.matrix_rank(kernel) == 1
    assert relative(kernel / kernel[4, 4], torch.outer(kernel[:, 4], kernel[4]) / kernel[4, 4] ** 2) < 1e-12


@pytest.mark.parametrize('mode', ['zeros', 'reflect', 'replicate', 'circular'])
def test_the_fold_is_exact_and_needs_the_crop(mode):
    op = flexible(4, 6, 7, 2, 6, 2, 2, padding_mode=mode)
    with torch.no_grad():
        op.mask_params[:, 1] = 0.3
    x = signal(2, 4, 21, 19)
    folded = op.to_conv2d()
    assert relative(folded(x), op(x)) < 1e-12 and relative(op(x), response_2d(op, x)) < 1e-10
    op.options = op.options._replace(crop=None)
    assert relative(op.to_conv2d()(x), folded(x)) > 1e-3


@pytest.mark.parametrize('settings', [{}, {'net': 'mlp'}, {'mask_init': 0.5}, {'groups': 4}, {'crop': None}], ids=str)
def test_the_initial_output_has_the_variance_of_the_input(settings):
    torch.manual_seed(0)
    op = CKConv2d(8, 16, 33, **{**FLEXIBLE, **settings})
    assert float(op.kernel().detach().square().sum((1, 2, 3)).mean()) == pytest.approx(1, rel=1e-3)


def test_the_mask_stays_wide_enough_to_grow_again():
    op = CKConv2d(2, 4, 9, **FLEXIBLE)
    with torch.no_grad():
        op.mask_params.copy_(torch.tensor([[3.0, -1.0], [0.0, 0.0]]))
    kernel = op.kernel()
    assert torch.isfinite(kernel).all() and op.mask_params.tolist() == [[1.0, 0.125], [0.0, 0.125]]
    kernel.square().sum().backward()
    assert (op.mask_params.grad[:, 1] != 0).all()


def test_a_negative_width_in_a_checkpoint_is_the_same_mask():
    op, other = flexible(2, 4, 9), flexible(2, 4, 9)
    state = op.state_dict()
    state['mask_params'] = state['mask_params'] * torch.tensor([1.0, -1.0])
    other.load_state_dict(state)
    assert torch.equal(other.kernel(), op.kernel())


def test_a_causal_mask_starts_at_the_current_sample():
    op = CKConv1d(2, 3, 50, hidden=4, mask='gaussian', crop=0.1, mask_init=0.1, dtype=torch.float64)
    assert torch.allclose(op.mask_params, torch.tensor([[1.0, 0.1]], dtype=torch.float64))
    # 0.1 * sqrt(2 ln 10) = 0.2146 is 5.3 steps of 2 / 49: five lags, and the current sample.
    assert (op.kernel() != 0).flatten(0, 1).all(0).tolist() == [False] * 44 + [True] * 6
    x = signal(2, 2, 60)
    assert relative(op(x), response_1d(op, x)) < 1e-10
    times = torch.arange(60.0, dtype=torch.float64)
    assert relative(op(x, times=times), op(x)) < 1e-10


@pytest.mark.parametrize('kind', [partial(CKConv1d, causal=False), CKConv2d])
def test_another_resolution_samples_the_same_mask(kind):
    op = kind(2, 3, 9, **FLEXIBLE, mask_init=0.4, hidden=4, dtype=torch.float64)
    fine = op.kernel(2) * 2**op.dims
    every_other = (slice(None), slice(None), *(slice(None, None, 2),) * op.dims)
    assert relative(fine[every_other], op.kernel()) < 1e-12


def test_a_config_can_say_it():
    conv = CKConv(8, 8, 3, padding=1, kernel_extent=33, **FLEXIBLE, omega_0=25.6)
    assert conv.padding == (16, 16) and "net='magnet', mask='gaussian', crop=0.1" in conv.extra_repr()
    assert conv.lr_mult == {'mask_params': 0.1} and 'mask_params' in conv.no_decay


def test_a_checkpoint_with_a_mask_needs_the_option():
    with pytest.raises(CheckpointMismatchError, match="mask='gaussian'"):
        CKConv2d(2, 4, 9, hidden=4, layers=2, net='magnet').load_state_dict(flexible(2, 4, 9).state_dict())
    with pytest.raises(CheckpointMismatchError, match="net='magnet'"):
        CKConv2d(2, 4, 9, hidden=4, mask='gaussian').load_state_dict(flexible(2, 4, 9).state_dict())


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'crop': 0.1}, "crop belongs to a mask.*add mask='gaussian'"),
        ({'mask_init': 0.2}, 'mask_init belongs to a mask'),
        ({'mask': 'gaussian', 'crop': 1.0}, 'crop must be a value of the mask between 0 and 1, got 1.0'),
        ({'net': 'magnet', 'activation': 'relu'}, "activation is an option of net='mlp'"),
        ({'net': 'magnet', 'weight_norm': True}, "weight_norm is an option of net='mlp'"),
        ({'net': 'magnet', 'init': 'official'}, "init is an option of net='mlp'"),
        ({'net': 'magent'}, "did you mean 'magnet'"),
        ({'mask': 'gauss'}, "did you mean 'gaussian'"),
    ],
    ids=str,
)
def test_bad_combinations_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        CKConv2d(4, 8, 7, **settings)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_starts_finite(dtype):
    op = CKConv2d(2, 4, 9, **FLEXIBLE, dtype=dtype)
    assert torch.isfinite(op.kernel()).all() and op.kernel().abs().sum() > 0


def test_the_name_in_configs_has_the_papers_options():
    named = FlexConv(4, 6, 3, padding=1, kernel_extent=9, hidden=4)
    options = dict(net='magnet', mask='gaussian', crop=0.1)
    assert named.options == CKConv(4, 6, 3, padding=1, kernel_extent=9, hidden=4, **options).options
    assert FlexConv(4, 6, 3, padding=1, hidden=4, crop=None).options.crop is None
    assert type(FlexConv(4, 6, 1, kernel_extent=9)) is torch.nn.Conv2d
