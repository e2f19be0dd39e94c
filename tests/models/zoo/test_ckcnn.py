from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmcv')

from torch import nn

from mmkerv.models.zoo.ckcnn import CKCNN, StepNorm
from mmkerv.ops import CKConv1d


def network(**options) -> CKCNN:
    torch.manual_seed(0)
    return CKCNN(**{'in_channels': 2, 'channels': 6, 'kernel_size': 20, **options}).eval()


def test_ckcnn_computes_the_equation_of_its_blocks():
    net, x = network(num_blocks=2).double(), torch.randn(3, 2, 20, dtype=torch.float64)
    h = x
    for block in net.blocks:
        inner = F.relu(F.group_norm(block.conv1(h), 1, block.norm1.weight, block.norm1.bias))
        inner = F.relu(F.group_norm(block.conv2(inner), 1, block.norm2.weight, block.norm2.bias))
        skip = F.conv1d(h, block.shortcut.weight, block.shortcut.bias) if h.shape[1] != 6 else h
        h = F.relu(inner + skip)
    assert torch.allclose(net(x)[0], h[..., -1], atol=1e-12)
    assert [type(block.shortcut) for block in net.blocks] == [nn.Conv1d, nn.Identity]


@pytest.mark.parametrize(('channels', 'millions'), [(30, 0.098), (100, 1.0)])
def test_ckcnn_has_the_size_in_the_paper(channels, millions):
    parameters = sum(p.numel() for p in CKCNN(1, channels, kernel_size=784).parameters()) + 10 * (channels + 1)
    assert parameters / 1e6 == pytest.approx(millions, rel=0.03)


def test_the_authors_form_has_exactly_the_size_in_the_paper():
    """98.29 thousand: the lengths of the weight normalisation count."""
    net = CKCNN(1, 30, kernel_size=784, weight_norm=True, init='official')
    assert sum(p.numel() for p in net.parameters()) + 10 * 31 == 98286


@pytest.mark.parametrize('activation', ['sine', 'relu', 'swish', 'rff'])
def test_only_periodic_activations_have_a_frequency(activation):
    net = network(activation=activation)
    options = net.blocks[0].conv1.options
    assert options.activation == activation
    assert (options.omega_0 == 31.09) == (activation in ('sine', 'rff'))
    with pytest.raises(ValueError, match='omega_0') if activation in ('relu', 'swish') else nullcontext():
        network(activation=activation, omega_0=5.0)


def test_each_dropout_acts_in_training_only():
    x = torch.randn(2, 2, 20)
    for options in ({'dropout': 0.5, 'dropout_in': 0.0}, {'dropout': 0.0, 'dropout_in': 0.5}):
        net = network(**options)
        assert torch.equal(net(x)[0], net(x)[0])
        net.train()
        assert not torch.equal(net(x)[0], net(x)[0])
    still = network(dropout=0.0, dropout_in=0.0).train()
    assert torch.equal(still(x)[0], still(x)[0])


@pytest.mark.parametrize(('norm', 'causal'), [('gn1', False), ('ln', True)])
def test_only_layer_norm_keeps_the_network_causal(norm, causal):
    net, x = network(norm=norm, num_blocks=2), torch.randn(1, 2, 20)
    changed = x.clone()
    changed[..., 12:] += 1
    blocks = [x, changed]
    for block in net.blocks:
        blocks = [block(signal) for signal in blocks]
    assert torch.allclose(blocks[0][..., :12], blocks[1][..., :12], atol=1e-5) == causal
    assert not torch.allclose(blocks[0][..., 12:], blocks[1][..., 12:], atol=1e-3)


def test_step_norm_is_layer_norm_of_each_step():
    norm, x = StepNorm(6), torch.randn(2, 6, 5)
    y = norm(x)
    assert torch.allclose(y.mean(1), torch.zeros(2, 5), atol=1e-6)
    assert torch.allclose(y.var(1, unbiased=False), torch.ones(2, 5), atol=1e-3)


def test_an_image_of_one_row_is_a_sequence():
    net, x = network(), torch.randn(2, 2, 20)
    assert torch.equal(net(x)[0], net(x[:, :, None])[0])


def test_regular_times_change_nothing():
    net, x = network(), torch.randn(2, 2, 20)
    assert torch.allclose(net(x, times=torch.arange(20.0))[0], net(x)[0], atol=1e-5)


def test_takes_its_length_from_the_first_sequence_and_keeps_it(tmp_path):
    net, other = network(kernel_size=None), network(kernel_size=None)
    x = torch.randn(2, 2, 33)
    y = net(x)[0]
    assert all(m.kernel_size == (33,) for m in net.modules() if isinstance(m, CKConv1d))
    net(torch.randn(2, 2, 50))
    assert torch.equal(net(x)[0], y)
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    other.load_state_dict(torch.load(tmp_path / 'net.pth', weights_only=True))
    other(torch.randn(1, 2, 7))
    assert torch.equal(other(x)[0], y)


def test_every_parameter_learns():
    net = network().train()
    net(torch.randn(4, 2, 20))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'norm': 'bn'}, 'norm'),
        ({'dropout': 1.0}, 'dropout'),
        ({'dropout_in': -0.1}, 'dropout_in'),
        ({'num_blocks': 0}, 'num_blocks'),
        ({'omega_0': 0}, 'omega_0'),
        ({'activations': 'sine'}, "did you mean 'activation'"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        network(**options)


def test_an_image_is_refused_with_the_cure():
    with pytest.raises(ValueError, match='ToSequence'):
        network()(torch.randn(1, 2, 28, 28))


@pytest.mark.parametrize('kernel', ['sgconv', 'multires', 'long'])
def test_the_network_takes_other_long_kernels(kernel):
    net = network(kernel=kernel)
    assert net(torch.randn(2, 2, 20))[0].shape == (2, 6)
    assert all(op.sequence.kernel == kernel for op in net.modules() if isinstance(op, CKConv1d))
