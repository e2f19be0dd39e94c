"""Pictures and arrays of kernels against the kernels of the layers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('matplotlib')

from mmkerv.errors import ArgumentError
from mmkerv.ops import (
    CKConv1d,
    CKConv2d,
    CoCConv2d,
    DCLSConv2d,
    KANConv2d,
    KervConv1d,
    KervConv2d,
    KervConv3d,
    SMPConv2d,
)
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.visualization import kernel_arrays, kernel_figure, spectrum_arrays, spectrum_figure
from mmkerv.visualization.spectra import log_magnitude
from mmkerv.visualization.tiles import MISSING, coloured, pixels, select_kernels
from tests.ops.catalogue import VARIANTS, layer


def trained_coc(*args, **options) -> CoCConv2d:
    """A layer whose kernel differs from its weight, as after training."""
    torch.manual_seed(0)
    return CoCConv2d(*args, super_init='kaiming', **options)


@pytest.mark.parametrize(
    ('args', 'options', 'blocks'),
    [
        ((3, 8, 3), {}, 1),
        ((3, 10, (3, 5)), {}, 1),
        ((4, 12, 3), {'groups': 2}, 2),
        ((5, 5, 3), {'groups': 5}, 1),
        ((16, 20, 3), {'association': 3, 'num_layers': 2}, 1),
        ((8, 8, 3), {'share': 'co'}, 1),
    ],
)
def test_every_filter_is_at_its_position_in_its_group(args, options, blocks):
    conv = trained_coc(*args, **options)
    arrays, kernel, a = kernel_arrays(conv), conv.kernel().detach(), conv.options.association
    outputs, (height, width) = len(kernel), conv.kernel_size
    assert np.array_equal(arrays['kernel'], kernel) and not np.allclose(arrays['kernel'], arrays['weight'])
    groups_of_block = math.ceil(outputs / blocks / a**2)
    seen = []
    for number in range(outputs):
        block, index = divmod(number, outputs // blocks)
        group, position = divmod(index, a**2)
        group, (row, column) = group + block * groups_of_block, divmod(position, a)
        assert arrays['filters'][group, row, column] == number
        rows, columns = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
        assert np.array_equal(arrays['kernel_tiles'][group, :, rows, columns], kernel[number])
        assert np.array_equal(arrays['weight_tiles'][group, :, rows, columns], conv.weight[number].detach())
        seen.append((group, row, column))
    missing = arrays['filters'] == -1
    assert missing.sum() == missing.size - len(seen)
    assert np.isnan(arrays['kernel_tiles']).sum() == missing.sum() * kernel[0].numel()
    for index, super_layer in enumerate(conv.super_layers):
        assert np.array_equal(arrays[f'super_kernel_{index}'], super_layer.weight.detach())


def drawn(axes) -> list[np.ndarray]:
    return [image.get_array() for image in axes.images]


def test_a_super_kernel_is_left_of_the_tile_of_its_group():
    conv = trained_coc(3, 8, 3)
    figure = kernel_figure(conv, 'backbone.conv1')
    assert figure.get_suptitle() == 'backbone.conv1: CoCConv2d 3 → 8, 3×3, super kernel 3×3 dilated by 2'
    before, after = figure.axes
    arrays = kernel_arrays(conv)
    assert len(before.images) == 2 and len(after.images) == 4
    for group in range(2):
        scale = max(np.abs(arrays[name][group]).max() for name in ('weight_tiles', 'kernel_tiles'))
        assert np.allclose(drawn(before)[group], coloured(arrays['weight_tiles'][group], scale))
        assert np.allclose(drawn(after)[2 * group], coloured(arrays['kernel_tiles'][group], scale))
        super_kernel = arrays['super_kernel_0'][group, 0]
        assert np.allclose(drawn(after)[2 * group + 1], coloured(super_kernel, np.abs(super_kernel).max()))
        (left, right, *_), (corner, end, *_) = (after.images[2 * group + i].get_extent() for i in (0, 1))
        assert corner < end < left < right and end < left


def test_each_kernel_may_have_its_own_range():
    """The colours of Figure 9 of the CoC paper."""
    conv = trained_coc(3, 6, 3)
    (before, after), arrays = kernel_figure(conv, colours='range').axes, kernel_arrays(conv)
    for axes, key, step in ((before, 'weight', 1), (after, 'kernel', 2)):
        images = drawn(axes)[::step]
        for number, kernel in enumerate(arrays[key]):
            group, (row, column) = number // 4, divmod(number % 4, 2)
            block = images[group][3 * row : 3 * row + 3, 3 * column : 3 * column + 3, :3]
            expected = (kernel - kernel.min()) / (kernel.max() - kernel.min())
            np.testing.assert_allclose(block, expected.transpose(1, 2, 0), atol=1e-6)
        assert (images[1][3:] == MISSING).all(), 'the group lacks two filters'
    super_kernel = arrays['super_kernel_0'][0, 0]
    assert drawn(after)[1][..., 0].min() == 0 and drawn(after)[1][..., 0].max() == 1 and super_kernel.min() < 0
    constant = nn.Conv2d(3, 1, 3)
    nn.init.constant_(constant.weight, 0.2)
    assert (drawn(kernel_figure(constant, colours='range').axes[0])[0][..., :3] == 0.5).all()
    with pytest.raises(ArgumentError, match="colours='range' is for layers that are drawn as filters; CKConv2d"):
        kernel_figure(CKConv2d(3, 4, 5), colours='range')
    with pytest.raises(ArgumentError, match="colours must be one of 'signed', 'range', got 'rnge'"):
        kernel_figure(conv, colours='rnge')


def test_topk_selects_the_largest_groups_of_a_wide_layer():
    conv = trained_coc(16, 16, 3)
    with torch.no_grad():
        conv.weight[8:12] *= 100
    figure = kernel_figure(conv, topk=1)
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ['8–11']
    assert len(kernel_figure(conv).axes[0].images) == 4 * 6


@pytest.mark.parametrize(
    ('share', 'supers'),
    [('ci', 1), ('cico', 1), ('co', 6), (None, 6)],
)
def test_shared_super_kernels_are_drawn_once(share, supers):
    after = kernel_figure(trained_coc(8, 4, 3, share=share)).axes[1]
    assert len(after.images) == 6 + supers


def test_a_kervolution_is_drawn_with_its_learned_hyperparameters():
    conv = KervConv2d(1, 6, 5, kernel='gaussian', learnable=True, per_channel=True)
    with torch.no_grad():
        conv.gamma.copy_(torch.arange(1, 7) / 4)
    figure = kernel_figure(conv, 'conv1')
    assert figure.get_suptitle() == 'conv1: KervConv2d 1 → 6, 5×5, gaussian, gamma=0.25 to 1.5 (learned)'
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts][:2] == ['0, gamma 0.25', '1, gamma 0.5']
    for image, weight in zip(drawn(axes), conv.weight.detach().numpy()):
        assert np.allclose(image, coloured(weight[0], np.abs(weight).max()))
    arrays = kernel_arrays(conv)
    assert np.array_equal(arrays['kernel'], conv.weight.detach()) and np.array_equal(
        arrays['gamma'], conv.gamma.detach()
    )


def test_a_kolmogorov_arnold_convolution_is_drawn_by_its_functions():
    torch.manual_seed(0)
    conv = KANConv2d(6, 5, 3, basis='rbf', grid_range=(-4, 4), base_activation='silu')
    figure = kernel_figure(conv, 'conv1')
    assert figure.get_suptitle() == 'conv1: KANConv2d 6 → 5, 3×3, rbf, 8 Gaussians of [-4, 4], silu base'
    arrays = kernel_arrays(conv)
    x, numbers = arrays['x'], [arrays[key].tolist() for key in ('outputs', 'inputs')]
    assert (x[0], x[-1]) == (-4, 4) and numbers == [[0, 1, 2, 3]] * 2
    assert np.array_equal(arrays['kernel'], conv.weight.detach())
    drawn_lines = [line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == len(x)]
    assert len(figure.axes) == 16 and len(drawn_lines) == 16 * 9
    curves = arrays['functions'].reshape(-1, len(x))
    assert all(np.array_equal(line.get_ydata(), curve) for line, curve in zip(drawn_lines, curves, strict=True))
    for number, value in list(enumerate(x))[::40]:
        with torch.no_grad():
            phi = torch.exp(-((float(value) - torch.linspace(-4, 4, 8)) * 7 / 8).square())
            weights = conv.basis.weight.view(5, 6, 8, 3, 3)[2, 1, :, 0, 2]
            expected = conv.weight[2, 1, 0, 2] * nn.functional.silu(torch.tensor(value)) + phi @ weights
        assert abs(arrays['functions'][2, 1, 0, 2, number] - float(expected)) < 1e-5
    with torch.no_grad():
        conv.basis.weight[4, 8 * 5 : 8 * 6] += 10
    largest = kernel_arrays(conv, topk=1)
    assert (largest['outputs'].tolist(), largest['inputs'].tolist()) == ([4], [5])
    with pytest.raises(ArgumentError, match='KANConv2d is drawn as curves'):
        kernel_figure(conv, colours='range')


@pytest.mark.parametrize(
    ('conv', 'count'),
    [
        (KervConv1d(3, 8, 5), 8),
        (KervConv3d(1, 4, 3), 4 * 3),
        (KervConv2d(3, 64, 7), 64),
        (KervConv2d(6, 16, 5), 8 * 6),
        (nn.Conv2d(32, 32, 1), 64),
    ],
    ids=['sequence', 'volume', 'in colour', 'wide', '1x1'],
)
def test_kernels_of_every_shape_are_drawn(conv, count):
    figure = kernel_figure(conv)
    assert len(figure.axes[0].images) == count
    assert pixels(figure, 50).std() > 0


@pytest.mark.parametrize(
    ('kind', 'args', 'options'),
    [
        (CKConv1d, (2, 4, 33), {}),
        (CKConv1d, (2, 4, 33), {'causal': False}),
        (CKConv1d, (4, 4, 200), {'separable': True}),
        (CKConv2d, (3, 8, (5, 7)), {}),
        (CKConv2d, (8, 8, 7), {'separable': True}),
    ],
)
def test_samples_lie_on_the_continuous_kernel(kind, args, options):
    torch.manual_seed(0)
    conv = kind(*args, **options)
    if conv.dims == 2:
        conv.set_resolution(0.5)
    arrays = kernel_arrays(conv, topk=2)
    assert np.allclose(arrays['kernel'], conv.kernel().detach())
    depthwise = conv._forward_kernel().detach()
    for channel, sampled in zip(arrays['channels'], arrays['sampled']):
        output, source = channel if not conv.options.separable else (channel[0], 0)
        assert np.array_equal(sampled, depthwise[output, source])
    at = [
        np.searchsorted(axis, positions - 1e-3)
        for axis, positions in zip(_axes(arrays['curve_positions']), _axes(arrays['positions']))
    ]
    nearest = arrays['curve'][(slice(None), *np.ix_(*at))]
    assert np.abs(nearest - arrays['sampled']).max() < 1e-3 * np.abs(arrays['sampled']).max()
    assert len(kernel_figure(conv, topk=2).axes) >= 2


def _axes(positions: np.ndarray) -> list[np.ndarray]:
    """The coordinates along each axis of a grid (*size, dims)."""
    dims = positions.shape[-1]
    return [positions[tuple(slice(None) if a == axis else 0 for a in range(dims))][:, axis] for axis in range(dims)]


class HalvedConv2d(GeneratedKernel, Conv2d):
    """A generated operator that no module of the package knows."""

    def _kernel(self):
        return self.weight / 2


def test_an_unknown_generated_operator_is_drawn_by_its_kernel():
    conv = HalvedConv2d(1, 4, 3)
    figure = kernel_figure(conv, 'conv1')
    assert figure.get_suptitle() == 'conv1: HalvedConv2d 1 → 4, 3×3'
    assert np.array_equal(kernel_arrays(conv)['kernel'], conv.weight.detach() / 2)
    assert len(figure.axes[0].images) == 4


def test_a_kernel_as_long_as_its_sequence_is_refused_before_the_first_sequence():
    with pytest.raises(ValueError, match='no kernel before its first sequence'):
        kernel_figure(CKConv1d(1, 2))


def test_a_spectrum_is_that_of_the_padded_kernel():
    conv = trained_coc(4, 8, 3)
    arrays = spectrum_arrays(conv, topk=3)
    points = arrays['kernel'].shape[-1]
    for name, kernel in (('weight', conv.weight), ('kernel', conv.kernel())):
        numbers = kernel.detach().double().numpy()
        frequencies = np.fft.fftshift(np.fft.fftfreq(points))
        wave = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(3)))
        power = (np.abs(np.einsum('uy,vx,oiyx->oiuv', wave, wave, numbers)) ** 2).sum(1)
        assert np.allclose(arrays[name], 10 * np.log10(power[arrays['filters']]), atol=1e-3)
        step = points // arrays[f'{name}_mean'].shape[0]
        assert np.allclose(arrays[f'{name}_mean'], 10 * np.log10(power.mean(0)[::step, ::step]), atol=1e-3)
    panels = spectrum_figure(conv, topk=3).axes
    assert [axes.get_title() for axes in panels[:5]][1:4] == [f'filter {n}' for n in arrays['filters']]
    assert np.allclose(panels[4].images[0].get_array(), arrays['kernel_mean'])


def test_spectra_of_sequences_are_curves_and_those_of_volumes_are_refused():
    conv = CKConv1d(2, 4, 100)
    (axes,) = spectrum_figure(conv, topk=2).axes
    assert len(axes.lines) == 3
    expected = log_magnitude(conv.kernel().detach(), 128)
    assert np.allclose(spectrum_arrays(conv)['kernel'], expected, atol=1e-3)
    with pytest.raises(ValueError, match='one or two axes, got KervConv3d'):
        spectrum_figure(KervConv3d(1, 2, 3))


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match='must be an operator of mmkerv or a convolution, got Linear'):
        kernel_figure(nn.Linear(3, 3))
    with pytest.raises(ValueError, match='topk'):
        kernel_figure(nn.Conv2d(3, 3, 3), topk=0)


def test_the_largest_or_the_first_kernels_are_selected():
    kernels = np.array([[1.0], [-5.0], [2.0], [-3.0]])
    assert select_kernels(kernels, 2, 1).tolist() == [1, 3]
    assert select_kernels(kernels, 9, 1).tolist() == [0, 1, 2, 3]
    assert select_kernels(kernels, None, 3).tolist() == [0, 1, 2]


def test_drawing_changes_neither_the_layer_nor_the_random_state():
    conv = trained_coc(3, 8, 3)
    state = {k: v.clone() for k, v in conv.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    kernel_figure(conv)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(v, state[k]) for k, v in conv.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in conv.parameters())


@pytest.mark.parametrize('name', VARIANTS)
def test_every_operator_has_a_picture(name):
    operator = layer(name)
    picture = kernel_figure(operator, name)
    picture.canvas.draw()
    assert picture.get_suptitle().startswith(name)
    kernel = kernel_arrays(operator)['kernel']
    assert np.ptp(kernel) > 0
    if isinstance(operator, GeneratedKernel):
        assert np.array_equal(kernel, operator.kernel().detach())


@pytest.mark.parametrize(
    'operator',
    [
        DCLSConv2d(2, 3, 3, padding=1, kernel_extent=7, positions_init='normal'),
        SMPConv2d(3, 3, 7, padding=3, groups=3, points=4),
    ],
    ids=['DCLS', 'SMP'],
)
def test_dots_mark_the_taps(operator):
    """A single tap with a small support: the largest value of the kernel lies below its dot."""
    positions = kernel_arrays(operator)['positions']
    outputs, inputs = operator.kernel().shape[:2]
    assert positions.shape[:3] == (2, outputs, inputs)
    with torch.no_grad():
        operator.positions.zero_()
        operator.positions[0] = 2.0 if isinstance(operator, DCLSConv2d) else 2 / 3
        values = operator.weight if isinstance(operator, DCLSConv2d) else operator.values
        values.fill_(1.0)
    arrays = kernel_arrays(operator)
    assert np.allclose(arrays['positions'][0], 2.0) and np.allclose(arrays['positions'][1], 0.0)
    if isinstance(operator, DCLSConv2d):
        assert np.unravel_index(arrays['kernel'][0, 0].argmax(), (7, 7)) == (5, 3)
    axes = kernel_figure(operator).axes[0]
    for image, dots in zip(axes.images, [line for line in axes.lines if line.get_marker() == '.'], strict=True):
        left, right, bottom, top = image.get_extent()
        assert np.allclose(dots.get_xdata(), (left + right) / 2)
        assert np.allclose(dots.get_ydata(), top + (bottom - top) * 5.5 / 7)
