"""Operators that replace mmcv's `Conv2dAdaptivePadding`: padding, folding, copying, compiling."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

pytest.importorskip('mmcv')
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Conv2dAdaptivePadding

import mmkerv
from mmkerv.errors import FoldError
from mmkerv.models.adaptive_padding import AdaptivePadding, same_padded
from mmkerv.ops import CKConv2d, CoCConv2d, KervConv2d, frozen_kernels, switch_to_deploy

COC, CK = {'type': 'CoCConv'}, {'type': 'CKConv'}
LINEAR, GAUSSIAN = {'type': 'KervConv', 'kernel': 'linear'}, {'type': 'KervConv', 'kernel': 'gaussian'}
SEPARABLE = {'type': 'CKConv', 'kernel_extent': 7, 'separable': True}
DEPTHWISE, SPATIAL = {'type': 'DepthwiseSeparableConv'}, {'type': 'SpatiallySeparableConv'}
SIZES = [(8, 8), (9, 9), (7, 12), (1, 5)]


def plain(kernel_size=3, **geometry):
    torch.manual_seed(0)
    return nn.Sequential(Conv2dAdaptivePadding(4, 8, kernel_size, **geometry))


def moved(conv_cfg, **geometry):
    """A converted network whose every parameter is away from its start."""
    model = mmkerv.convert(plain(**geometry), conv_cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(size):
    return torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(
    'geometry', [{}, {'stride': 2}, {'stride': (2, 3), 'dilation': (2, 1)}, {'groups': 4}], ids=str
)
@pytest.mark.parametrize('kernel_size', [3, (1, 5)])
def test_an_identity_start_computes_what_the_convolution_computes(kernel_size, geometry, size):
    model = plain(kernel_size, **geometry)
    expected, weight = model(images(size)), model[0].weight
    for conv_cfg in (COC, LINEAR):
        converted = mmkerv.convert(copy.deepcopy(model), conv_cfg)
        assert isinstance(converted[0], AdaptivePadding) and torch.equal(converted[0].weight, weight)
        torch.testing.assert_close(converted(images(size)), expected)


@pytest.mark.parametrize('conv_cfg', [COC, CK, SEPARABLE, LINEAR, DEPTHWISE, SPATIAL], ids=str)
@pytest.mark.parametrize('size', SIZES)
def test_folding_keeps_the_outputs(conv_cfg, size):
    model = moved(conv_cfg, stride=2)
    expected, folded = model(images(size)), copy.deepcopy(model)
    assert expected.shape[-2:] == tuple(-(-n // 2) for n in size)
    assert switch_to_deploy(folded).replaced == ['0']
    torch.testing.assert_close(folded(images(size)), expected, atol=1e-5, rtol=1e-4)
    pair = conv_cfg in (SEPARABLE, DEPTHWISE, SPATIAL)
    assert type(folded[0][0] if pair else folded[0]) is Conv2dAdaptivePadding
    if not pair:
        upstream = plain(stride=2)
        upstream.load_state_dict(folded.state_dict())
        torch.testing.assert_close(upstream(images(size)), expected, atol=1e-5, rtol=1e-4)


def test_a_separable_kernel_folds_into_two_convolutions_or_one():
    operator = moved(SEPARABLE)[0]
    assert [type(conv) for conv in operator.to_conv2d()] == [Conv2dAdaptivePadding, nn.Conv2d]
    dense = operator.to_conv2d(dense=True)
    assert type(dense) is Conv2dAdaptivePadding
    torch.testing.assert_close(dense(images((9, 9))), operator(images((9, 9))))


@pytest.mark.parametrize(
    ('conv_cfg', 'folded'),
    [(SEPARABLE, SEPARABLE), (DEPTHWISE, {'separable': 'depthwise'}), (SPATIAL, {'separable': 'spatial'})],
    ids=str,
)
def test_folded_conv_loads_the_folded_weights(conv_cfg, folded):
    model = moved(conv_cfg, stride=2)
    deployed = mmkerv.convert(plain(stride=2), {**folded, 'type': 'FoldedConv'})
    expected = model(images((9, 8)))
    switch_to_deploy(model)
    deployed.load_state_dict(model.state_dict())
    torch.testing.assert_close(deployed(images((9, 8))), expected)


def test_a_smaller_extent_keeps_the_output_size():
    model = mmkerv.convert(plain(5, stride=2), {**CK, 'kernel_extent': 3})
    assert model[0].kernel_size == (3, 3) and model[0].padding == (0, 0)
    assert model(images((9, 8))).shape[-2:] == (5, 4)


@pytest.mark.parametrize('separable', [False, True])
def test_another_resolution_pads_for_the_sampled_kernel(separable):
    """A constant kernel sums the window: the sum of ones shows every padded position."""
    model = moved({**CK, 'separable': separable}, stride=2)
    op = model[0]
    op.set_resolution(2)
    x = images((12, 13))
    padded = same_padded(x, (5, 5), 2, 1)
    assert padded.shape[-2:] == (15, 17) and op(x).shape[-2:] == (6, 7)
    torch.testing.assert_close(op(x), F.conv2d(padded, op.kernel(), op.bias, stride=2))
    op.set_resolution(1)
    torch.testing.assert_close(op(x, scale_factor=2), F.conv2d(padded, op.kernel(2), op.bias, stride=2))
    op.set_resolution(2)
    torch.testing.assert_close(op.to_conv2d()(x), op(x))


def test_a_kervolution_sees_the_padded_image_and_does_not_fold():
    model, x = moved(GAUSSIAN, stride=2), images((8, 7))
    inner = KervConv2d(4, 8, 3, stride=2, kernel='gaussian')
    inner.load_state_dict(model[0].state_dict())
    torch.testing.assert_close(model(x), inner(F.pad(x, (1, 1, 0, 1))))
    with pytest.raises(FoldError, match='KervConv2d with kernel'):
        model[0].to_conv2d()
    assert list(switch_to_deploy(model).kept) == ['0']


def test_stride_and_dilation_may_be_rewritten_afterwards():
    model, upstream = mmkerv.convert(plain(stride=2), COC), plain(stride=2)
    for network in (model, upstream):
        network[0].stride, network[0].dilation = (1, 1), (2, 2)
    torch.testing.assert_close(model(images((9, 8))), upstream(images((9, 8))))


@pytest.mark.parametrize('conv_cfg', [COC, CK, SEPARABLE, GAUSSIAN], ids=str)
def test_state_dict_pickle_and_copy_keep_the_outputs(conv_cfg):
    model, x = moved(conv_cfg, stride=2), images((9, 8))
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other[0]) is type(model[0]) and torch.equal(other(x), expected)
    fresh = mmkerv.convert(plain(stride=2), conv_cfg)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), expected)
    own = ('super_layers', 'kernel_net', 'pointwise')
    keys = {key for key in model.state_dict() if not any(name in key for name in own)}
    assert keys == ({'0.bias'} if isinstance(model[0], CKConv2d) else {'0.weight', '0.bias'})


def test_frozen_kernels_are_not_pickled():
    model, x = moved(COC, stride=2).eval(), images((9, 8))
    expected = model(x)
    with frozen_kernels(model), torch.no_grad():
        assert model[0]._frozen_kernel is not None
        assert torch.equal(model(x), expected)
        copied = pickle.loads(pickle.dumps(model))
    assert '_frozen_kernel' not in vars(copied[0]) and torch.equal(copied(x), expected)


@pytest.mark.parametrize('conv_cfg', [COC, CK, GAUSSIAN], ids=str)
def test_the_compiled_network_computes_the_same(conv_cfg):
    model = moved(conv_cfg, stride=2)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for size in ((9, 8), (12, 5)):
        torch.testing.assert_close(compiled(images(size)), model(images(size)))


def test_gradients_reach_every_parameter():
    model = moved(COC, stride=2)
    model(images((9, 8))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_mmengine_initialises_it_as_a_convolution():
    """Its rules match the names of a class and of its direct bases."""
    from mmengine.model import initialize

    model, upstream = mmkerv.convert(plain(), COC), plain()
    for network in (model, upstream):
        torch.manual_seed(1)
        initialize(network, [{'type': 'Normal', 'layer': 'Conv2d', 'std': 3.0, 'bias': 2.0}])
    assert torch.equal(model[0].weight, upstream[0].weight) and torch.equal(model[0].bias, upstream[0].bias)
    assert upstream[0].bias.tolist() == [2.0] * 8


def test_it_replaces_the_convolution_of_a_conv_module():
    block = ConvModule(
        4, 8, 3, stride=2, padding=1, conv_cfg={'type': 'Conv2dAdaptivePadding'}, norm_cfg={'type': 'BN'}
    )
    expected = block.eval()(images((8, 8)))
    mmkerv.convert(block, COC)
    assert isinstance(block.conv, CoCConv2d) and 'adaptive_padding=True' in repr(block)
    torch.testing.assert_close(block(images((8, 8))), expected)


def test_a_registered_convolution_pads_the_same_way():
    from mmcv.cnn.bricks.conv_ws import conv_ws_2d

    model, x = mmkerv.convert(plain(stride=2), {'type': 'ConvWS'}), images((8, 7))
    conv = model[0]
    torch.testing.assert_close(model(x), conv_ws_2d(F.pad(x, (1, 1, 0, 1)), conv.weight, conv.bias, 2))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_subclasses_of_adaptive_padding_are_kept():
    class Special(Conv2dAdaptivePadding):
        pass

    with pytest.raises(ValueError, match='3x3 Special: 1'):
        mmkerv.convert(nn.Sequential(Special(4, 8, 3)), COC)


def test_1x1_stays_plain_unless_replace_1x1_is_set():
    with pytest.raises(ValueError, match=r'leaves plain \(1x1: 1\).*replace_1x1'):
        mmkerv.convert(plain(1), COC, {'kernel_sizes': 'all'})
    model = mmkerv.convert(plain(1, stride=2), {**COC, 'replace_1x1': True}, {'kernel_sizes': 'all'})
    torch.testing.assert_close(model(images((7, 8))), plain(1, stride=2)(images((7, 8))))


@pytest.mark.parametrize('conv_cfg', [COC, CK, LINEAR], ids=lambda cfg: cfg['type'])
def test_fuse_conv_bn_eval_gets_the_folded_layer(conv_cfg):
    op, norm = moved(conv_cfg, stride=2)[0].eval(), nn.BatchNorm2d(8).eval()
    with torch.no_grad():
        for tensor in (norm.running_var, norm.weight):
            tensor.uniform_(0.5, 2)
    x = torch.randn(2, 4, 9, 8)
    fused = fuse_conv_bn_eval(op, norm)
    assert type(fused) is Conv2dAdaptivePadding
    torch.testing.assert_close(fused(x), norm(op(x)), atol=1e-4, rtol=1e-4)
