"""ResNetCifar, DenseNetCifar and GoogLeNetCifar: published sizes, forward, placement, fusion, bad input."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip('mmpretrain')

from mmcv.cnn import fuse_conv_bn
from mmengine.registry import MODELS, init_default_scope

from mmkerv.models.zoo.googlenet_cifar import Inception
from mmkerv.ops import KervConv2d
from tests.ops.contract import relative

FIRST = {'stages': ()}
POLYNOMIAL = {'type': 'mmkerv.KervConv', 'degree': 3, 'learnable': True}
SMALL = {
    'resnet': {'type': 'mmkerv.ResNetCifar', 'depth': 20},
    'densenet': {'type': 'mmkerv.DenseNetCifar', 'depth': 10},
    'googlenet': {'type': 'mmkerv.GoogLeNetCifar'},
}
STEMS = {'resnet': 'conv1', 'densenet': 'stem.0', 'googlenet': 'stem.conv'}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def build(cfg, **changes):
    torch.manual_seed(0)
    net = MODELS.build({**copy.deepcopy(cfg), **changes})
    net.init_weights()
    # Batch norms with the statistics 0 and 1 would change nothing.
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 2.0)
    # mmpretrain's backbones return nothing from train().
    net.eval()
    return net


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def parameters(net):
    return sum(p.numel() for p in net.parameters())


# He et al., Table 6, in millions, with the classifier.
@pytest.mark.parametrize(('depth', 'published'), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_resnet_has_the_published_size(depth, published):
    net = MODELS.build({'type': 'mmkerv.ResNetCifar', 'depth': depth})
    assert (parameters(net) + 650) / 1e6 == pytest.approx(published, rel=0.02)
    assert net.depth == depth == 2 + 2 * sum(net.stage_blocks)


def test_densenet_has_the_published_size():
    net = MODELS.build({'type': 'mmkerv.DenseNetCifar', 'depth': 40, 'growth_rate': 12})
    assert net.channels == 448
    # Huang et al., Table 2: 1.0 million, with the classifier.
    assert (parameters(net) + 4490) / 1e6 == pytest.approx(1.0, abs=0.05)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) + 1 == 40 and sum(c.kernel_size == (3, 3) for c in convs) == 37


def test_googlenet_has_the_widths_of_torchvision():
    import torchvision

    theirs = torchvision.models.googlenet(init_weights=False, aux_logits=False)
    theirs = [m for m in theirs.modules() if type(m).__name__ == 'Inception']
    ours = [m for m in MODELS.build({'type': 'mmkerv.GoogLeNetCifar'}).modules() if isinstance(m, Inception)]

    def widths(module):
        return [(c.in_channels, c.out_channels) for c in module.modules() if isinstance(c, nn.Conv2d)]

    assert len(ours) == 9 and [widths(m) for m in ours] == [widths(m) for m in theirs]
    # torchvision's 5x5 convolutions are 3x3, a known error; ours are as in Table 1.
    for module in ours:
        assert [c.kernel_size[0] for c in module.modules() if isinstance(c, nn.Conv2d)] == [1, 1, 3, 1, 5, 1]


@pytest.mark.parametrize(('name', 'channels'), [('resnet', 64), ('densenet', 16 + 6 * 12), ('googlenet', 1024)])
@pytest.mark.parametrize('size', [32, 48])
def test_features_have_a_quarter_of_the_image_size(name, channels, size):
    (feature,) = build(SMALL[name])(torch.randn(2, 3, size, size))
    assert feature.shape == (2, channels, size // 4, size // 4)


def test_densenet_computes_its_definition():
    net, x = build(SMALL['densenet']), images()
    weights = net.state_dict()

    def apply(x, prefix):
        stats = [weights[f'{prefix}.0.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')]
        x = F.relu(F.batch_norm(x, *stats))
        kernel = weights.get(f'{prefix}.2.weight')
        return x if kernel is None else F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)

    y = F.conv2d(x, weights['stem.0.weight'], padding=1)
    for i in range(3):
        outputs = [y]
        for j in range(2):
            outputs.append(apply(torch.cat(outputs, 1), f'stages.{i}.{j}'))
        y = apply(torch.cat(outputs, 1), f'transitions.{i}')
        if i < 2:
            y = F.avg_pool2d(y, 2)
    with torch.no_grad():
        assert relative(net(x)[0], y) < 1e-5


def test_densenet_drops_after_every_convolution_but_the_first():
    net = build(SMALL['densenet'], drop_rate=0.2)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.2] * 8
    x = images()
    assert torch.equal(net(x)[0], net(x)[0])
    net.train()
    assert not torch.equal(net(x)[0], net(x)[0])
    plain = build(SMALL['densenet'])
    assert set(plain.state_dict()) == set(net.state_dict())


@pytest.mark.parametrize('name', SMALL)
def test_convolutions_start_with_hes_initialisation(name):
    net = build(SMALL[name])
    for conv in [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 5000]:
        expected = (2 / (conv.out_channels * conv.weight[0, 0].numel())) ** 0.5
        assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize('name', SMALL)
def test_the_first_convolution_becomes_a_kervolution(name):
    plain, x = build(SMALL[name]), images()
    linear = build(SMALL[name], conv_cfg={'type': 'mmkerv.KervConv', 'kernel': 'linear'}, where=FIRST)
    assert [n for n, m in linear.named_modules() if isinstance(m, KervConv2d)] == [STEMS[name]]
    assert set(linear.state_dict()) == set(plain.state_dict())
    assert relative(linear(x)[0], plain(x)[0]) < 1e-5, 'the same seed gives the same weights'

    net = build(SMALL[name], conv_cfg=POLYNOMIAL, where=FIRST)
    assert set(net.state_dict()) - set(plain.state_dict()) == {f'{STEMS[name]}.balance'}
    assert relative(net(x)[0], plain(x)[0]) > 1e-3
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x)[0], net(x)[0])
    net.train()
    net(x)[0].square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize('where', [{'stages': (2,), 'stem': False}, None], ids=str)
@pytest.mark.parametrize('name', SMALL)
def test_where_selects_stages(name, where):
    net = build(SMALL[name], conv_cfg={'type': 'KervConv', 'kernel': 'linear'}, where=where)
    kerv = [n for n, m in net.named_modules() if isinstance(m, KervConv2d)]
    convs = [n for n, m in net.named_modules() if isinstance(m, (KervConv2d, nn.Conv2d))]
    # What lies between two stages belongs to the later one.
    second = ('layer2.',) if name == 'resnet' else ('stages.1.', 'transitions.0.')
    assert kerv == [n for n in convs if where is None or n.startswith(second)] != []


@pytest.mark.parametrize('conv_cfg', [None, POLYNOMIAL], ids=['plain', 'kerv'])
@pytest.mark.parametrize('name', SMALL)
def test_mmcvs_fusion_keeps_the_outputs(name, conv_cfg):
    net, x = build(SMALL[name], conv_cfg=conv_cfg, where=FIRST), images()
    expected = net(x)[0]
    fused = fuse_conv_bn(copy.deepcopy(net))
    assert any(isinstance(m, nn.Identity) for m in fused.modules()) == (name != 'densenet')
    assert relative(fused(x)[0], expected) < 1e-4


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        ({'type': 'mmkerv.ResNetCifar', 'depth': 34}, r'depth must be one of 20, 32, 44, 56, 110, got 34'),
        ({'type': 'mmkerv.DenseNetCifar', 'depth': 41}, r'depth must be 3n \+ 4, such as 40 or 100, got 41'),
        ({'type': 'mmkerv.DenseNetCifar', 'depth': 4}, 'depth must be >= 7'),
        ({**SMALL['resnet'], 'conv_cfg': POLYNOMIAL, 'where': {'names': 'conv9'}}, 'no convolution was replaced'),
        ({**SMALL['densenet'], 'where': {'stage': (1,)}}, r"no argument 'stage'; did you mean 'stages'\?"),
        ({**SMALL['googlenet'], 'depth': 22}, 'depth'),
        ({**SMALL['resnet'], 'width': 22}, 'width'),
    ],
)
def test_bad_input_is_refused(cfg, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MODELS.build(cfg)
