import pytest
import torch

pytest.importorskip('mmcv')

from torch import nn

from mmkerv.models.zoo.lenet import LeNet5Kerv
from mmkerv.ops import KervConv2d

GAUSSIAN = dict(type='mmkerv.KervConv', kernel='gaussian', gamma=1.0)
POLYNOMIAL = dict(type='mmkerv.KervConv', degree=2, balance=0.5)


def kinds(net: nn.Module, of: type) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, of)]


def test_is_lenet5_for_28_pixels():
    net = LeNet5Kerv()
    x = torch.rand(3, 1, 28, 28)
    convs = kinds(net, nn.Conv2d)
    assert [tuple(c.weight.shape) for c in convs] == [(6, 1, 5, 5), (16, 6, 5, 5)]
    assert [tuple(f.weight.shape) for f in kinds(net, nn.Linear)] == [(120, 400), (84, 120)]
    assert sum(p.numel() for p in net.parameters()) == 156 + 2416 + 48120 + 10164
    h = nn.functional.max_pool2d(convs[0](x).relu(), 2)
    h = nn.functional.max_pool2d(convs[1](h).relu(), 2).flatten(1)
    for linear in kinds(net, nn.Linear):
        h = linear(h).relu()
    assert torch.allclose(net(x)[0], h, atol=1e-6)


@pytest.mark.parametrize(
    ('layers', 'expected'), [((POLYNOMIAL, None), [True, False]), ((None, GAUSSIAN), [False, True])]
)
def test_each_layer_is_what_it_is_told(layers, expected):
    net = LeNet5Kerv(layers)
    assert [isinstance(stage[0], KervConv2d) for stage in (net.layer1, net.layer2)] == expected
    assert len(kinds(net, KervConv2d)) == 1
    net(torch.rand(2, 1, 28, 28))[0].sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_without_activations_and_with_average_pooling_it_is_affine():
    net = LeNet5Kerv(act_cfg=None, pool='avg').double()
    a, b, zero = (
        torch.rand(1, 1, 28, 28).double(),
        torch.rand(1, 1, 28, 28).double(),
        torch.zeros(1, 1, 28, 28).double(),
    )
    out = [net(x)[0] for x in (a + b, a, b, zero)]
    assert torch.allclose(out[0] + out[3], out[1] + out[2], atol=1e-12)
    kerv = LeNet5Kerv((POLYNOMIAL, POLYNOMIAL), act_cfg=None, pool='avg').double()
    out = [kerv(x)[0] for x in (a + b, a, b, zero)]
    assert not torch.allclose(out[0] + out[3], out[1] + out[2], atol=1e-3)


def test_norm_stands_between_kernel_and_activation():
    net = LeNet5Kerv((POLYNOMIAL, None), norm_cfg=dict(type='BN'))
    assert [type(m).__name__ for m in net.layer1] == ['KervConv2d', 'BatchNorm2d', 'ReLU', 'MaxPool2d']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'layers': (None,)}, 'layers must be two'),
        ({'pool': 'mean'}, "pool must be one of 'max', 'avg'"),
        ({'layers': (dict(type='mmkerv.KervConv', kernel='gauss'), None)}, "did you mean 'gaussian'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LeNet5Kerv(**arguments)


def test_images_of_another_size_are_an_error():
    with pytest.raises(ValueError, match='28x28, got'):
        LeNet5Kerv()(torch.rand(1, 1, 32, 32))
