"""LSKBlock: its formula, starts, and use as a plugin of the libraries' ResNets."""

import copy
import io
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
from mmengine.registry import MODELS, init_default_scope

import mmkerv
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.models import LSKBlock
from mmkerv.ops.core.base import Conv2d
from tests.ops.contract import relative

TORCH = tuple(map(int, torch.__version__.split('.')[:2]))
KEYS = {
    f'{name}.{part}'
    for name in ('conv0', 'conv_spatial', 'conv1', 'conv2', 'conv_squeeze', 'conv')
    for part in ('weight', 'bias')
}
# Radius that an output sees: 5x5, 7x7 of dilation 3, and the 7x7 of the gates.
BORDER = 2 + 9 + 3


def block(channels=4, **settings):
    """A block whose every parameter matters."""
    torch.manual_seed(0)
    made = LSKBlock(channels, identity_start=False)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.to(**settings)


def convolved(x, conv, c, i, j, dilation):
    """One output of a convolution of groups 1 or C, padded so that the size stays, by loops."""
    weight = conv.weight.detach().numpy()
    total, (height, width) = conv.bias.detach().numpy()[c], x.shape[1:]
    depthwise, centre = weight.shape[1] < len(x), weight.shape[2] // 2
    for k, u, v in itertools.product(*map(range, weight.shape[1:])):
        row, column = i + (u - centre) * dilation, j + (v - centre) * dilation
        if 0 <= row < height and 0 <= column < width:
            total += weight[c, k, u, v] * x[c if depthwise else k, row, column]
    return total


def apply(x, conv, dilation=1):
    y = np.zeros((len(conv.weight), *x.shape[1:]))
    for place in itertools.product(*map(range, y.shape)):
        y[place] = convolved(x, conv, *place, dilation)
    return y


def naive(block, x):
    """The definition for one image (C, H, W) in float64, by loops."""
    a1 = apply(x, block.conv0)
    a2 = apply(a1, block.conv_spatial, dilation=3)
    b1, b2 = apply(a1, block.conv1), apply(a2, block.conv2)
    squeezed = np.zeros((2, *x.shape[1:]))
    for i, j in itertools.product(*map(range, x.shape[1:])):
        values = [b[c, i, j] for b in (b1, b2) for c in range(len(b1))]
        squeezed[0, i, j], squeezed[1, i, j] = sum(values) / len(values), max(values)
    gates = 1 / (1 + np.exp(-apply(squeezed, block.conv_squeeze)))
    mixed = np.zeros_like(b1)
    for c, i, j in itertools.product(*map(range, b1.shape)):
        mixed[c, i, j] = gates[0, i, j] * b1[c, i, j] + gates[1, i, j] * b2[c, i, j]
    return x * apply(mixed, block.conv)


@pytest.mark.parametrize('channels', [2, 5, 6])
def test_computes_its_definition(channels):
    made, x = block(channels, dtype=torch.float64), torch.randn(2, channels, 5, 6, dtype=torch.float64)
    expected = torch.from_numpy(np.stack([naive(made, image) for image in x.numpy()]))
    assert relative(made(x), expected) < 1e-12


def test_without_selection_both_kernels_count_half():
    made, x = block(6, dtype=torch.float64), torch.randn(2, 6, 8, 9, dtype=torch.float64)
    nn.init.zeros_(made.conv_squeeze.weight)
    nn.init.zeros_(made.conv_squeeze.bias)
    a1 = made.conv0(x)
    b1, b2 = made.conv1(a1), made.conv2(made.conv_spatial(a1))
    assert relative(made(x), x * made.conv((b1 + b2) / 2)) < 1e-12


@pytest.mark.parametrize(('channels', 'count'), [(64, 11334), (5, 617), (2, 360)])
def test_number_of_parameters(channels, count):
    half = channels // 2
    formula = 26 * channels + 50 * channels + 2 * (channels * half + half) + 198 + channels * half + channels
    assert sum(p.numel() for p in LSKBlock(channels).parameters()) == formula == count


def test_names_are_those_of_released_networks():
    assert set(LSKBlock(4).state_dict()) == KEYS


def test_is_translation_equivariant_away_from_the_border():
    made, x = block(dtype=torch.float64), torch.randn(1, 4, 38, 40, dtype=torch.float64)
    shifted = made(torch.roll(x, (2, 3), (2, 3)))
    inside = (..., slice(BORDER + 2, -BORDER), slice(BORDER + 3, -BORDER))
    assert shifted[inside].numel() > 200
    assert relative(shifted[inside], torch.roll(made(x), (2, 3), (2, 3))[inside]) < 1e-12
    outside = (..., slice(BORDER + 1, -BORDER), slice(BORDER + 3, -BORDER))
    assert relative(shifted[outside], torch.roll(made(x), (2, 3), (2, 3))[outside]) > 1e-8


def test_starts_as_the_identity_and_every_parameter_learns():
    torch.manual_seed(0)
    made, x = LSKBlock(6), torch.randn(2, 6, 9, 8)
    assert torch.equal(made(x), x)
    before = copy.deepcopy(made.state_dict())
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (made(x) - x.sin()).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_other_starts():
    torch.manual_seed(0)
    made = LSKBlock(64, identity_start=False)
    for conv, fan_out in ((made.conv0, 25), (made.conv_spatial, 49), (made.conv1, 32), (made.conv, 64)):
        assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
        assert not conv.bias.any()
    own = LSKBlock(64, init_cfg={'type': 'Constant', 'layer': 'Conv2d', 'val': 0.25})
    own.init_weights()
    assert bool((own.conv.weight == 0.25).all())


def test_gradcheck():
    made = block(3, dtype=torch.float64)
    names, values = zip(*((n, p.detach().clone().requires_grad_()) for n, p in made.named_parameters()))
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def function(x, *values):
        return torch.func.functional_call(made, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values))


@pytest.mark.parametrize('shape', [(0, 4, 8, 8), (1, 4, 1, 1)], ids=str)
def test_empty_batch_and_smallest_input(shape):
    made = block()
    y = made(torch.randn(shape))
    assert y.shape == shape
    y.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in made.parameters())


def test_an_image_does_not_depend_on_the_others():
    made, x = block().double(), torch.randn(3, 4, 9, 9, dtype=torch.float64)
    assert relative(made(x)[1:2], made(x[1:2])) < 1e-12


def test_channels_last():
    made, x = block(), torch.randn(2, 4, 9, 8)
    y = made.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert relative(y, block()(x)) < 1e-5


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('way', ['autocast', 'parameters'])
def test_half_precision(dtype, way):
    if dtype == torch.float16 and TORCH < (2, 3):
        pytest.skip('torch before 2.3 convolves nothing in float16 on a CPU')
    made, x = block(), torch.randn(2, 4, 9, 8)
    expected = made.double()(x.double())
    if way == 'autocast':
        made = made.float()
        with torch.autocast('cpu', dtype=dtype):
            y = made(x)
    else:
        y = made.to(dtype)(x.to(dtype))
        assert y.dtype == dtype
    assert relative(y.double(), expected) < 6e-2
    y.float().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in made.parameters())


def test_compiles_without_graph_breaks():
    made, x = block(), torch.randn(2, 4, 9, 8)
    torch._dynamo.reset()
    y = torch.compile(made, fullgraph=True, backend='aot_eager')(x)
    y.sum().backward()
    assert relative(y, made(x)) < 1e-5


def test_copies_and_devices():
    made, x = block(), torch.randn(2, 4, 9, 8)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(x), made(x)) and other.conv.weight is not made.conv.weight
    with torch.device('meta'):
        empty = LSKBlock(4)
    assert empty(torch.empty(1, 4, 5, 5, device='meta')).shape == (1, 4, 5, 5)
    empty.to_empty(device='cpu').load_state_dict(made.state_dict())
    assert torch.equal(empty(x), made(x))


@pytest.mark.parametrize('opset', [11, 13, 17])
def test_is_exported(opset):
    pytest.importorskip('onnx', reason='onnx is not installed')
    onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    made, file, axes = block().eval(), io.BytesIO(), {0: 'batch', 2: 'height', 3: 'width'}
    settings = {'dynamo': False} if TORCH >= (2, 5) else {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            made, (torch.randn(1, 4, 9, 9),), file, input_names=['x'], opset_version=opset, dynamic_axes={'x': axes},
            **settings,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    for shape in ((2, 4, 9, 9), (5, 4, 12, 7)):
        x = torch.randn(shape)
        assert relative(torch.from_numpy(session.run(None, {'x': x.numpy()})[0]), made(x)) < 1e-4


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        ({'in_channels': 1}, ArgumentError, 'in_channels must be >= 2, got 1'),
        ({'in_channels': 4.0}, ArgumentTypeError, 'in_channels must be an integer'),
        ({'in_channels': 4, 'identity_start': 1}, ArgumentTypeError, 'identity_start must be True or False'),
    ],
    ids=['small', 'float', 'start'],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        LSKBlock(**arguments)


def resnet(host, **settings):
    pytest.importorskip(host)
    init_default_scope(host)
    torch.manual_seed(0)
    net = MODELS.build({'type': 'ResNet', 'depth': 50, 'base_channels': 8, 'stem_channels': 8, **settings})
    net.init_weights()
    net.eval()
    return net


def plugin(position, **settings):
    return {'cfg': {'type': 'mmkerv.LSKBlock', **settings}, 'stages': (False, True, True, False), 'position': position}


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('position', ['after_conv1', 'after_conv2', 'after_conv3'])
def test_a_plugin_of_resnet_leaves_the_pretrained_network_as_it_is(host, position):
    plain, net = resnet(host), resnet(host, plugins=[plugin(position)])
    blocks = {name: m for name, m in net.named_modules() if isinstance(m, LSKBlock)}
    assert len(blocks) == 4 + 6 and all(name.endswith('.lsk_block') for name in blocks)
    width = 64 if position == 'after_conv3' else 16
    assert blocks['layer2.0.lsk_block'].conv0.in_channels == width
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and {key.partition('.lsk_block.')[2] for key in missing} == KEYS
    x = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(net(x), plain(x)))
    assert float(blocks['layer2.0.lsk_block'].conv0.weight.detach().std()) > 0.2


def test_several_plugins_have_names_of_their_own():
    plugins = [plugin('after_conv2', postfix=1), plugin('after_conv3', postfix=2, identity_start=False)]
    net = resnet('mmdet', plugins=plugins, zero_init_residual=False, norm_eval=False)
    assert net.layer2[0].lsk_block1.identity_start and not net.layer2[0].lsk_block2.identity_start
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    net.train()
    sum(y.mean() for y in net(x)).backward()
    assert net.layer3[5].lsk_block2.conv.weight.grad.abs().sum() > 0


def test_operators_leave_the_plugin_plain_unless_it_is_named():
    net = resnet('mmdet', plugins=[plugin('after_conv2')])
    convs = {name for name, m in net.named_modules() if 'lsk_block' in name and type(m) is nn.Conv2d}
    mmkerv.convert(net, {'type': 'DCLSConv', 'kernel_extent': 9})
    kept = {name for name, m in net.named_modules() if 'lsk_block' in name and type(m) is nn.Conv2d}
    assert kept == convs and isinstance(net.layer2[0].conv2, Conv2d)
    mmkerv.convert(net, {'type': 'DCLSConv', 'kernel_extent': 9}, {'names': r'\.conv0$'})
    assert all(isinstance(m.conv0, Conv2d) for m in net.modules() if isinstance(m, LSKBlock))
