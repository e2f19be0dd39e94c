"""Initialisers for init_cfg: Gram matrices, variances, which layers they take, in networks of mmengine."""

import math

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')

from mmengine.model import BaseModule, initialize

from mmkerv.engine import ConvolutionAwareInit, DepthwiseStructuredInit
from mmkerv.engine.initialisers import PATTERNS, _patterns, convolution_aware_, depthwise_structured_
from mmkerv.errors import ConfigError
from mmkerv.ops import CKConv2d, CoCConv2d, DCLSConv2d, KANConv2d
from mmkerv.ops.core.base import ConvNd

AWARE = {'type': 'mmkerv.ConvolutionAwareInit', 'layer': 'Conv2d'}
STRUCTURED = {'type': 'mmkerv.DepthwiseStructuredInit', 'layer': 'Conv2d'}


@pytest.mark.parametrize(
    'shape',
    [(8, 4, 3, 3), (3, 9, 3, 3), (4, 20, 3, 3), (2, 5, 1, 7), (6, 1, 5, 5), (2, 7, 4), (2, 9, 2, 2, 2)],
    ids=str,
)
def test_the_input_channels_of_each_filter_are_orthogonal(shape):
    torch.manual_seed(0)
    weight = convolution_aware_(torch.empty(shape, dtype=torch.float64)).flatten(2)
    _, inputs, taps = weight.shape
    for matrix in weight:
        for block in matrix.split(taps):
            gram = block @ block.T
            assert (gram - 2 / inputs * torch.eye(len(block), dtype=torch.float64)).abs().max() < 1e-12
    assert float(weight.square().mean()) == pytest.approx(2 / (inputs * taps), rel=1e-12)


def test_filters_are_rotations_without_a_preference():
    torch.manual_seed(0)
    weight = convolution_aware_(torch.empty(4000, 2, 3, 3)).flatten(1)
    assert weight.mean(0).abs().max() < 0.06 and (weight.std(0) / weight.std() - 1).abs().max() < 0.05


def test_noise_is_as_the_authors_have_it():
    torch.manual_seed(0)
    weight = convolution_aware_(torch.empty(64, 4, 3, 3), noise=0.05).flatten(2)
    assert float(weight.square().mean()) == pytest.approx(2 / 36, rel=1e-5)
    gram = weight @ weight.mT - 0.5 * torch.eye(4)
    assert 0.01 < float(gram.abs().mean()) < 0.1


def test_depthwise_kernels_have_norm_1_and_a_pattern():
    torch.manual_seed(0)
    weight = depthwise_structured_(torch.empty(400, 1, 7, 7), noise=0.0)
    assert (weight.flatten(1).norm(dim=1) - 1).abs().max() < 1e-5
    assert float(weight.square().mean()) == pytest.approx(1 / 49, rel=1e-5)
    # Of each pattern, at the width that fits best, there are as many as of any other, with both signs.
    y, x = (
        (torch.arange(7, dtype=torch.float64) - 3).view(1, -1, 1),
        (torch.arange(7, dtype=torch.float64) - 3).view(1, 1, -1),
    )
    dictionary = _patterns(x, y, torch.linspace(0.5, 1.75, 126, dtype=torch.float64).view(-1, 1, 1)).flatten(2)
    dictionary = dictionary / dictionary.norm(dim=2, keepdim=True)
    products = torch.einsum('ck,pwk->cpw', weight.flatten(1).double(), dictionary)
    best = products.abs().amax(2)
    assert best.amax(1).min() > 0.999
    counts = torch.bincount(best.argmax(1), minlength=PATTERNS)
    assert counts.min() > 30 and counts.max() < 90
    signs = (products.flatten(1).gather(1, products.abs().flatten(1).argmax(1, keepdim=True)) > 0).double().mean()
    assert 0.4 < float(signs) < 0.6


def test_derivatives_are_derivatives():
    y, x = torch.arange(9.0).double().view(1, -1, 1) - 4, torch.arange(9.0).double().view(1, 1, -1) - 4
    sigma, step = torch.full((1, 1, 1), 1.3, dtype=torch.float64), 1e-4

    def gauss(dx: float = 0.0, dy: float = 0.0) -> torch.Tensor:
        return torch.exp(-((x + dx) ** 2 + (y + dy) ** 2) / (2 * sigma**2))

    g, h = gauss(), step
    expected = {
        2: (gauss(h) - gauss(-h)) / (2 * h),
        3: (gauss(0, h) - gauss(0, -h)) / (2 * h),
        4: (gauss(h) - 2 * g + gauss(-h)) / h**2,
        5: (gauss(0, h) - 2 * g + gauss(0, -h)) / h**2,
        6: (gauss(h, h) - gauss(h, -h) - gauss(-h, h) + gauss(-h, -h)) / (4 * h**2),
    }
    patterns = _patterns(x, y, sigma)
    for number, derivative in expected.items():
        cosine = nn.functional.cosine_similarity(patterns[number].flatten(), derivative.flatten(), dim=0)
        assert abs(abs(float(cosine)) - 1) < 1e-6, number


class Net(BaseModule):
    def __init__(self, init_cfg, **parts):
        super().__init__(init_cfg)
        for name, part in parts.items():
            setattr(self, name, part)


def drawn(net: nn.Module) -> list[str]:
    """The parameters that ``init_weights`` changes."""
    before = {name: p.clone() for name, p in net.named_parameters()}
    net.init_weights()
    return [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]


def test_layers_are_chosen_as_by_mmengine_and_operators_count_as_convolutions():
    parts = {
        'conv': nn.Conv2d(4, 8, 3),
        'pointwise': nn.Conv2d(8, 8, 1, bias=False),
        'coc': CoCConv2d(8, 8, 3),
        'kan': KANConv2d(8, 8, 3),
        'ck': CKConv2d(8, 8, 3),
        'bn': nn.BatchNorm2d(8),
        'fc': nn.Linear(8, 8),
        'up': nn.ConvTranspose2d(8, 8, 3),
    }
    net = Net({**AWARE, 'bias': 0.5}, **parts)
    own = {name: p.clone() for m in net.modules() if isinstance(m, ConvNd) for name, p in m.own_parameters().items()}
    names = ['conv', 'pointwise', 'coc', 'kan']
    assert set(drawn(net)) == {f'{n}.{p}' for n in names for p in ('weight', 'bias')} - {'pointwise.bias'}
    for name in names:
        weight = parts[name].weight
        assert float(weight.square().mean()) == pytest.approx(
            2 / weight[0].numel(), rel=0.3 if name == 'pointwise' else 1e-5
        )
        assert parts[name].bias is None or set(parts[name].bias.tolist()) == {0.5}
    gram = parts['coc'].weight.flatten(2) @ parts['coc'].weight.flatten(2).mT
    assert (gram - 0.25 * torch.eye(8)).abs().max() < 1e-6
    after = {name: p for m in net.modules() if isinstance(m, ConvNd) for name, p in m.own_parameters().items()}
    assert own.keys() == after.keys() and all(torch.equal(p, own[name]) for name, p in after.items())


def test_structured_depthwise_goes_behind_another_initialiser():
    init_cfg = [{'type': 'Constant', 'layer': 'Conv2d', 'val': 0.25}, STRUCTURED]
    parts = {
        'large': nn.Conv2d(8, 8, 7, groups=8),
        'dcls': DCLSConv2d(8, 8, 5, groups=8),
        'small': nn.Conv2d(8, 8, 3, groups=8),
        'flat': nn.Conv2d(8, 8, (1, 7), groups=8),
        'dense': nn.Conv2d(8, 8, 7),
    }
    net = Net(init_cfg, **parts)
    net.init_weights()
    for name, part in parts.items():
        structured = name in ('large', 'dcls')
        assert bool((part.weight == 0.25).all()) != structured
        if structured:
            assert (part.weight.flatten(1).norm(dim=1) - 1).abs().max() < 1e-5


def test_override_names_a_module():
    parts = {
        'stem': nn.Conv2d(3, 8, 3),
        'block': nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), CoCConv2d(8, 8, 3)),
    }
    override = {'type': 'mmkerv.ConvolutionAwareInit', 'name': 'block'}
    net = Net({'type': 'Constant', 'layer': 'Conv2d', 'val': 0.25, 'override': override}, **parts)
    supers = parts['block'][2].super_layers[0].weight.clone()
    net.init_weights()
    assert bool((parts['stem'].weight == 0.25).all()) and torch.equal(parts['block'][2].super_layers[0].weight, supers)
    for layer in parts['block'][::2]:
        rows = layer.weight.flatten(2)
        assert (rows @ rows.mT - 0.25 * torch.eye(8)).abs().max() < 1e-6


@pytest.mark.parametrize('kind', ['ConvolutionAwareInit', 'DepthwiseStructuredInit'])
def test_override_alone_names_the_only_module_that_is_drawn(kind):
    parts = {name: nn.Conv2d(8, 8, 5, groups=8, bias=False) for name in ('stem', 'other')}
    assert drawn(Net({'type': f'mmkerv.{kind}', 'override': {'name': 'stem'}}, **parts)) == ['stem.weight']
    with pytest.raises(ConfigError, match=f'{kind} is for .*, and Linear has none; choose others'):
        initialize(Net(None, fc=nn.Linear(3, 3)), {'type': f'mmkerv.{kind}', 'override': {'name': 'fc'}})


@pytest.mark.parametrize(
    ('cfg', 'part', 'message'),
    [
        (AWARE, nn.Linear(3, 3), 'is for convolutions, and Net has none among the layers of class Conv2d'),
        ({**AWARE, 'layer': 'Linear'}, nn.Linear(3, 3), 'among the layers of class Linear'),
        ({**AWARE, 'layer': 'ConvTranspose2d'}, nn.ConvTranspose2d(3, 3, 3), 'is for convolutions'),
        (STRUCTURED, nn.Conv2d(8, 8, 3, groups=8), 'is for depthwise convolutions of 5x5 and more'),
        (STRUCTURED, nn.Conv2d(8, 8, 7), 'is for depthwise convolutions of 5x5 and more'),
    ],
    ids=['no convolution', 'linear', 'transposed', 'small', 'dense'],
)
def test_where_they_do_not_apply_they_say_so(cfg, part, message):
    with pytest.raises(ConfigError, match=message):
        initialize(Net(None, part=part), cfg)


def test_bad_arguments_are_refused():
    for kind in (ConvolutionAwareInit, DepthwiseStructuredInit):
        with pytest.raises(ValueError, match='noise must be >= 0'):
            kind(noise=-0.1)
    assert DepthwiseStructuredInit().noise == 0.1 and DepthwiseStructuredInit(noise=0).noise == 0
    assert math.isclose(ConvolutionAwareInit(bias_prob=0.01).bias, -math.log(99))
