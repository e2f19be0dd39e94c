"""FDConv2d: its contract, its plain start, the notes' numbers, parameter counts, the authors' checkpoints."""

import math

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError, CheckpointMismatchError
from mmkerv.ops import FDConv, FDConv2d
from mmkerv.ops.fdconv.bands import banded_kernels, gain_map, ranks
from mmkerv.ops.fdconv.features import modulated
from tests.ops.contract import relative
from tests.ops.family_contracts import DynamicContract
from tests.ops.oracle import convolution

SHAPES = {
    '3x3': ((6, 8, 3), {'padding': 1}),
    '1x1': ((6, 8, 1), {}),
    'strided': ((6, 8, 3), {'stride': 2, 'padding': 1}),
    'groups': ((6, 9, 3), {'groups': 3, 'padding': 1}),
    'depthwise': ((6, 6, 5), {'groups': 6, 'padding': 2}),
    'one side': ((6, 4, (3, 1)), {'padding': (1, 0)}),
    'odd widths': ((5, 7, 3), {'padding': 2, 'dilation': 2, 'bias': False}),
    'circular': ((6, 8, (3, 5)), {'padding': (1, 2), 'padding_mode': 'circular'}),
}


@torch.no_grad()
def moved(op: nn.Module) -> nn.Module:
    """The layer with parameters of its own that differ from their start."""
    for parameter in op.own_parameters().values():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return op


def fill(shape: tuple[int, ...], step: float = 0.7, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.sin(step * torch.arange(math.prod(shape), dtype=dtype)).view(shape)


# torch 2.1 cannot compile Fourier transforms of sizes that change.
FIXED_SIZES = False if torch.__version__ < '2.2' else None


class TestFDConv(DynamicContract):
    operator = FDConv2d
    options = {'kernel_num': 5}
    compile_dynamic = FIXED_SIZES
    # That of the kernels 3x3 that compute the gains of the maps, and that of the layer.
    border = 2

    def make(self, *args, **kwargs):
        return moved(super().make(*args, **kwargs))

    def expected(self, op, x):
        return torch.from_numpy(convolution(op, x)[0])


class TestWithBatchNorm(DynamicContract):
    """With the running statistics, as in every evaluation."""

    operator = FDConv2d
    options = {'kernel_num': 4, 'gate_norm': 'bn'}
    compile_dynamic = FIXED_SIZES
    border = 2

    def make(self, *args, **kwargs):
        op = moved(super().make(*args, **kwargs)).eval()
        with torch.no_grad():
            op.squeeze.norm.running_mean.normal_()
            op.squeeze.norm.running_var.uniform_(0.5, 2)
        return op

    def expected(self, op, x):
        return torch.from_numpy(convolution(op, x)[0])


@pytest.mark.parametrize('case', SHAPES)
@pytest.mark.parametrize('norm', ['ln', 'bn'])
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_starts_as_the_plain_convolution(case, norm, training):
    geometry, settings = SHAPES[case]
    torch.manual_seed(0)
    plain = nn.Conv2d(*geometry, **settings)
    op = FDConv2d(*geometry, **settings, gate_norm=norm).train(training)
    op.load_state_dict(plain.state_dict())
    x = 3 * torch.randn(3, geometry[0], 9, 8)
    for images in (x, x.relu(), 1 + x.relu()):
        assert op.starts_as_identity and relative(op(images), plain(images)) < 1e-6


@pytest.mark.parametrize('case', SHAPES)
def test_every_parameter_moves_from_the_start(case):
    geometry, settings = SHAPES[case]
    torch.manual_seed(0)
    op = FDConv2d(*geometry, **settings)
    before = {name: p.clone() for name, p in op.named_parameters()}
    optimizer, x = torch.optim.SGD(op.parameters(), lr=0.3), torch.randn(2, geometry[0], 9, 8)
    for _ in range(3):
        optimizer.zero_grad()
        op(x).square().mean().backward()
        optimizer.step()
    assert [name for name, p in op.named_parameters() if torch.equal(p, before[name])] == []


def test_the_first_step_of_the_weight_is_that_of_the_plain_convolution():
    torch.manual_seed(0)
    plain, op = nn.Conv2d(6, 8, 3, padding=1), FDConv2d(6, 8, 3, padding=1)
    op.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, 9, 8).relu()
    for layer in (plain, op):
        layer(x).square().sum().backward()
    assert relative(op.weight.grad, plain.weight.grad) < 1e-6 and relative(op.bias.grad, plain.bias.grad) < 1e-6


@pytest.mark.parametrize('order', ['integer', 'official'])
def test_the_published_band_energies(order):
    weight = fill((4, 6, 3, 3))
    order = torch.from_numpy(ranks(12, 18, order).copy())
    bands = banded_kernels(weight, torch.eye(4, dtype=torch.float64) - 1, order, groups=1)
    energies = bands.square().sum((1, 2, 3, 4))
    assert relative(energies, torch.tensor([0.18423, 75.47903, 31.95853, 0.08672])) < 1e-6
    assert relative(bands.sum(0), weight) < 1e-14
    products = bands.flatten(1) @ bands.flatten(1).T
    assert (products - products.diag().diag()).abs().max() < 1e-12


@pytest.mark.parametrize('width', [17, 18, 36, 40, 48, 58, 96, 144])
@pytest.mark.parametrize('bands', [4, 64])
def test_bands_of_any_width_are_nearly_equal(width, bands):
    order = torch.from_numpy(ranks(3 * width, 3 * width).copy())
    sizes = torch.bincount(order.new_tensor(sorted(order.tolist())) * 0 + order)
    assert sizes.eq(1).all(), 'a permutation'
    count = order.numel()
    numbers = torch.arange(bands, dtype=torch.float64).expand(1, -1)
    found = torch.bincount((gain_map(numbers, order, 3 * width, 3 * width) * 2).round().long().flatten())
    # Where two conjugate coefficients are of two bands, both have the gain between.
    assert found[::2].sum() + found[1::2].sum() == count
    assert (found[::2] - count / bands).abs().max() <= 2 and found[1::2].sum() <= bands * 4


def test_the_order_of_frequencies_is_by_size_then_by_position():
    rows, columns = 6, 4
    order = ranks(rows, columns).reshape(rows, -1)
    frequency = torch.fft.fftfreq(rows)[:, None].square() + torch.fft.rfftfreq(columns).square()
    found = sorted((order[m, n], round(float(frequency[m, n]), 6), m * 3 + n) for m in range(rows) for n in range(3))
    assert found == sorted(found, key=lambda key: key[1:])


def test_a_layer_with_fewer_coefficients_has_fewer_bands():
    assert len(FDConv2d(8, 8, 3, groups=8, kernel_num=64).band_gate.bias) == 6
    assert len(FDConv2d(8, 8, 3, kernel_num=64).band_gate.bias) == 64


@pytest.mark.parametrize('size', [(32, 32), (25, 37), (20, 30), (1, 1)], ids=str)
def test_feature_bands_add_up_to_the_maps(size):
    x = torch.randn(1, 2, *size)
    assert torch.equal(modulated(x, torch.zeros(1, 3, *size)), x)
    doubled = modulated(x, torch.ones(1, 3, *size))
    nothing = modulated(x, -torch.ones(1, 3, *size))
    assert relative((doubled + nothing) / 2, x) < 1e-6
    # What is left is the lowest band, which contains the mean.
    assert relative(nothing.mean((2, 3)), x.mean((2, 3))) < 1e-4


def added(inputs: int, outputs: int, kernel: int) -> tuple[int, int]:
    """Parameters that a layer adds, with a plain weight and with the authors' half spectrum."""
    features, bands, taps = max(inputs // 16, 16), 64, kernel**2
    along = round(math.log2(inputs) / 2 + 0.5) // 2 * 2 + 1
    spatial = taps if kernel > 1 else 0
    gates = inputs + outputs + spatial + bands
    number = features * (gates + inputs) + gates + 2 * features + 2 + outputs * taps * along + 2 * inputs
    number += 3 * (9 * inputs + 1) if kernel == 3 else 0
    spectrum = 2 * outputs * kernel * (inputs * kernel // 2 + 1) - outputs * inputs * taps
    return number, number + spectrum


def test_the_parameters_it_adds_to_resnet50():
    layers, inputs = [], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            layers += [(inputs, width, 1), (width, width, 3), (width, 4 * width, 1)]
            inputs = 4 * width
    assert len(layers) == 48
    built = [FDConv(*layer, bias=False, device='meta') for layer in layers]
    assert all(type(op) is FDConv2d for op in built)
    numbers = [sum(p.numel() for p in op.own_parameters().values()) for op in built]
    assert numbers == [added(*layer)[0] for layer in layers]
    assert sum(numbers) == 3586704 and sum(added(*layer)[1] for layer in layers) == 3647120
    # The authors' layer of 64 channels, with its bias.
    assert 64 * 64 * 9 + 64 + added(64, 64, 3)[1] == 46526


def test_batch_norm_refuses_a_single_sample_in_training_alone():
    op, x = FDConv2d(6, 8, 3, gate_norm='bn'), torch.randn(1, 6, 7, 7)
    with pytest.raises(ArgumentError, match="gate_norm='ln'"):
        op(x)
    op.squeeze.norm.eval()
    op(x).sum().backward()
    FDConv2d(6, 8, 3)(x).sum().backward()


def test_switches_leave_out_parameters():
    names = {
        name: {key.partition('.')[0] for key in FDConv2d(6, 8, 3, **{name: False}).own_parameters()}
        for name in ('ksm_global', 'ksm_local', 'fbm')
    }
    gates = {'squeeze', 'channel_gate', 'filter_gate', 'spatial_gate', 'band_gate'}
    assert names['ksm_global'] == {'local_norm', 'local_gate', 'band_maps'}
    assert names['ksm_local'] == {*gates, 'band_maps'} and names['fbm'] == {*gates, 'local_norm', 'local_gate'}
    x = torch.randn(2, 6, 7, 7)
    for op in (FDConv2d(6, 8, 1, ksm_global=False, ksm_local=False), FDConv2d(6, 8, 1)):
        assert relative(op(x), torch.conv2d(x, op.weight, op.bias)) < 1e-6


def test_the_config_class_replaces_what_the_authors_replace():
    kinds = {shape: type(FDConv(*shape)).__name__ for shape in ((16, 64, 3), (17, 17, 3), (64, 64, 5), (64, 32, 1))}
    assert list(kinds.values()) == ['Conv2d', 'FDConv2d', 'Conv2d', 'FDConv2d']
    assert type(FDConv(3, 8, 7, replace_all=True)) is FDConv2d
    with pytest.raises(TypeError, match='replace_all'):
        FDConv(3, 8, 7, replace_all=1)
    with pytest.raises(ValueError, match='kernel_num'):
        FDConv(3, 8, 7, kernel_num=0)


def official_state(op: FDConv2d) -> dict[str, torch.Tensor]:
    """The entries of the authors' layer that computes the same, for a layer without groups."""
    outputs, inputs, height, across = op.weight.shape
    matrix = op.weight.permute(0, 2, 1, 3).reshape(outputs * height, inputs * across)
    spectrum = torch.view_as_real(torch.fft.rfft2(matrix))[None] / (min(outputs, inputs) // 2)
    state = {'dft_weight': spectrum, 'bias': op.bias}
    parts = {'fc': op.squeeze, 'channel_fc': op.channel_gate, 'filter_fc': op.filter_gate, 'kernel_fc': op.band_gate}
    if op.spatial_gate is not None:
        parts['spatial_fc'] = op.spatial_gate
    for name, part in parts.items():
        state[f'KSM_Global.{name}.weight'] = part.weight[..., None, None]
        if name != 'fc':
            state[f'KSM_Global.{name}.bias'] = part.bias
    state |= {f'KSM_Global.bn.{name}': value for name, value in op.squeeze.norm.state_dict().items()}
    state |= {'KSM_Global.relu.scale': op.squeeze.scale, 'KSM_Global.relu.bias': op.squeeze.shift}
    state['KSM_Local.conv.weight'] = op.local_gate.weight[:, None]
    state |= {f'KSM_Local.norm.{name}': value for name, value in op.local_norm.state_dict().items()}
    if op.band_maps is not None:
        for i in range(3):
            state[f'FBM.freq_weight_conv_list.{i}.weight'] = op.band_maps.weight[i : i + 1]
            state[f'FBM.freq_weight_conv_list.{i}.bias'] = op.band_maps.bias[i : i + 1]
    return {name: value.detach().clone() for name, value in state.items()}


@pytest.mark.parametrize('kernel', [1, 3])
def test_reads_the_authors_state_dicts(kernel):
    torch.manual_seed(0)
    settings = {'kernel_num': 4, 'gate_norm': 'bn', 'band_order': 'official'}
    op, other = moved(FDConv2d(18, 20, kernel, **settings)), FDConv2d(18, 20, kernel, **settings)
    state = {f'0.{name}': value for name, value in official_state(op).items()}
    nn.Sequential(other).load_state_dict(state)
    assert all(torch.allclose(other.state_dict()[k], v, atol=1e-6) for k, v in op.state_dict().items())
    with pytest.raises(CheckpointMismatchError, match="gate_norm='bn', band_order='official'"):
        nn.Sequential(FDConv2d(18, 20, kernel)).load_state_dict(state)
    state['0.dft_weight'] = state['0.dft_weight'].repeat(2, 1, 1, 1)
    with pytest.raises(CheckpointMismatchError, match='param_ratio=1'):
        nn.Sequential(other).load_state_dict(state)


def test_the_numbers_of_the_authors_code():
    """Of their layer with filled parameters, on maps of the size that their band limits are made for."""
    op = FDConv2d(18, 20, 3, padding=1, kernel_num=4, gate_norm='bn', band_order='official').eval()
    state = official_state(op)
    # In the order of their state dict.
    names = ['bias', 'dft_weight', 'KSM_Global.fc.weight']
    names += [f'KSM_Global.bn.{n}' for n in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')]
    names += ['KSM_Global.relu.scale', 'KSM_Global.relu.bias']
    gates = [f'KSM_Global.{gate}_fc' for gate in ('channel', 'filter', 'spatial', 'kernel')]
    maps = [f'FBM.freq_weight_conv_list.{i}' for i in range(3)]
    names += [f'{part}.{kind}' for part in (*gates, *maps) for kind in ('weight', 'bias')]
    names += ['KSM_Local.conv.weight', 'KSM_Local.norm.weight', 'KSM_Local.norm.bias']
    assert set(names) == set(state)
    for number, name in enumerate(names):
        shape = tuple(state[name].shape)
        if name.endswith('running_var'):
            state[name] = 1 + 0.5 * fill(shape, 0.3, torch.float32)
        elif state[name].is_floating_point():
            state[name] = 0.2 * fill(shape, 0.1 * (number + 1), torch.float32)
    matrix = 0.1 * fill((20, 18, 3, 3), dtype=torch.float32).permute(0, 2, 1, 3).reshape(60, 54)
    state['dft_weight'] = torch.view_as_real(torch.fft.rfft2(matrix))[None] / 9
    op.load_state_dict(state)
    y = op(fill((2, 18, 64, 64), 0.37, torch.float32))
    assert abs(float(y.double().sum()) / 22438.78416 - 1) < 1e-5
    assert abs(float(y.double().abs().sum()) / 65491.48345 - 1) < 1e-5
    expected = torch.tensor([[-0.28368184, -0.08280730, 0.12700354], [-0.00408712, -0.25082523, -0.44499969]])
    assert (torch.stack([y[0, 3, 10, 11:14], y[1, 19, 60, 5:8]]) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    'option', [{'kernel_num': 3}, {'reduction': 0.5}, {'temperature': 5.0}, {'gate_norm': 'bn'}], ids=lambda o: min(o)
)
def test_options_without_effect_are_refused(option):
    with pytest.raises(ValueError, match='belongs to ksm_global=True'):
        FDConv2d(16, 16, 3, ksm_global=False, **option)
