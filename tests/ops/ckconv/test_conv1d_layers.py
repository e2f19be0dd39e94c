"""CKConv1d with strides, folded, and with unknown kernel size; invalid arguments; published weights."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmkerv.ops import CKConv1d, switch_to_deploy
from tests.ops.ckconv.ck_operators import CAUSAL, random_1d, response_1d, signal
from tests.ops.contract import relative


@pytest.mark.parametrize('stride', [2, 3])
@pytest.mark.parametrize('settings', ['plain', 'groups', 'separable', 'dilation'])
def test_a_layer_with_stride_s_gives_every_s_th_output(stride, settings):
    settings = {'in_channels': 4, 'out_channels': 6, 'kernel_size': 5, **CAUSAL[settings]}
    op, every = random_1d(**settings, stride=stride), random_1d(**settings)
    for length in (13, 14, 15, 30):
        x = signal(2, 4, length)
        assert relative(op(x), every(x)[..., ::stride]) < 1e-12
        assert relative(op(x), response_1d(op, x)) < 1e-11


@pytest.mark.parametrize(
    ('settings', 'reach'),
    [
        ({'kernel_size': 8}, 8),
        ({'kernel_size': 8, 'dilation': 2}, 15),
        ({'kernel_size': 9, 'causal': False}, 9),
        ({'kernel_size': 9, 'causal': False, 'padding': 3}, 3),
        ({'kernel_size': 9, 'causal': False, 'padding': 2, 'dilation': 2}, 13),
    ],
    ids=str,
)
def test_sequences_shorter_than_the_extent_of_a_strided_layer_are_rejected(settings, reach):
    op = CKConv1d(2, 3, **settings, stride=2)
    assert op(torch.randn(1, 2, reach)).shape[-1] >= 1
    with pytest.raises(ValueError, match=f'x must be at least as long.*got {reach - 1}; use stride=1, or a smaller'):
        op(torch.randn(1, 2, reach - 1))


def test_a_finer_resolution_increases_the_extent_of_a_strided_layer():
    op = CKConv1d(2, 3, 8, stride=2)
    assert op(torch.randn(1, 2, 15), scale_factor=2).shape == (1, 3, 8)
    with pytest.raises(ValueError, match='15 samples, got 14'):
        op(torch.randn(1, 2, 14), scale_factor=2)


FOLDS = [
    {},
    {'separable': True},
    {'separable': True, 'groups': 2},
    {'groups': 4, 'bias': False},
    {'dilation': 3},
    {'stride': 2, 'separable': True},
    {'causal': False, 'padding': 4},
    {'causal': False, 'padding': 'same', 'separable': True},
    {'causal': False, 'stride': 3, 'padding': 1, 'padding_mode': 'circular'},
]


@pytest.mark.parametrize('settings', FOLDS, ids=str)
@pytest.mark.parametrize('ratio', [1, 2])
def test_the_folded_layer_gives_the_same_output(settings, ratio):
    op = random_1d(4, 8, 9, **settings)
    op.set_resolution(ratio)
    for length in (20, 37):
        x = signal(2, 4, length)
        for folded in (op.to_conv1d(), op.to_conv1d(dense=True)):
            assert relative(folded(x), op(x)) < 1e-12
            assert all(
                'Conv1d' in type(m).__name__ or 'Pad' in type(m).__name__ for m in folded.modules() if m is not folded
            )
    convolutions = [m for m in op.to_conv1d(dense=True).modules() if isinstance(m, nn.Conv1d)]
    assert len(convolutions) == 1 and torch.equal(convolutions[0].weight, op.kernel())


def test_the_folded_layer_takes_sequences_shorter_than_the_kernel():
    op, x = random_1d(2, 3, 9), signal(2, 2, 4)
    assert relative(op.to_conv1d()(x), op(x)) < 1e-12


def test_operators_in_a_model_are_folded():
    model = nn.Sequential(random_1d(2, 4, 9, separable=True), nn.ReLU(), random_1d(4, 3, 5, causal=False, padding=2))
    x, expected = signal(2, 2, 20), model.eval()(signal(2, 2, 20))
    assert switch_to_deploy(model).replaced == ['0', '2']
    assert not any(isinstance(m, CKConv1d) or m.training for m in model.modules())
    assert relative(model(x), expected) < 1e-12


def test_a_1d_layer_does_not_fold_to_a_conv2d():
    op, x = random_1d(2, 3, 9), signal(2, 2, 20)
    if hasattr(op, 'to_conv2d'):
        with pytest.raises((RuntimeError, TypeError, AttributeError, NotImplementedError), match='to_conv1d'):
            op.to_conv2d()(x)


# Kernels as long as the first sequence.


@pytest.mark.parametrize('settings', ['plain', 'separable', 'relu', 'swish', 'rff', 'no_bias'])
@pytest.mark.parametrize('length', [7, 256, 300])
def test_an_unknown_kernel_size_becomes_the_length_of_the_first_sequence(settings, length):
    settings = {'in_channels': 4, 'out_channels': 6, 'dtype': torch.float64, **CAUSAL[settings]}
    torch.manual_seed(0)
    op = CKConv1d(**settings, kernel_size=None)
    torch.manual_seed(0)
    known = CKConv1d(**settings, kernel_size=length)
    for n in (length, 5, length + 20):
        x = signal(1, 4, n)
        assert relative(op(x), known(x)) < 1e-9
    assert op.kernel_size == (length,) and relative(op.kernel(), known.kernel()) < 1e-9


def test_the_inferred_kernel_size_is_copied_and_saved():
    op, fresh, x = CKConv1d(2, 3, None), CKConv1d(2, 3, None), signal(2, 2, 30, dtype=torch.float32)
    expected = op(x)
    for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert torch.equal(copied(x[..., :9]), op(x[..., :9])) and copied.kernel_size == (30,)
    fresh.load_state_dict(op.state_dict())
    assert torch.equal(fresh(x[..., :9]), op(x[..., :9])) and torch.equal(fresh(x), expected)
    assert fresh.kernel_size == (30,)


def test_a_loaded_kernel_is_never_rescaled():
    """Loads with strict=False, as mmengine does."""
    known, unknown, x = CKConv1d(2, 3, 30), CKConv1d(2, 3, None), signal(2, 2, 50, dtype=torch.float32)
    unknown.load_state_dict(known.state_dict(), strict=False)
    weight = known.kernel_net.layers[-1].weight
    unknown(x)
    assert torch.equal(unknown.kernel_net.layers[-1].weight, weight) and torch.equal(unknown.bias, known.bias)


def test_copying_parameters_and_buffers_one_by_one_copies_the_layer():
    """Weight averaging copies a model in this way."""
    op, x = CKConv1d(2, 3, None), signal(2, 2, 30, dtype=torch.float32)
    average = copy.deepcopy(op)
    op(x)
    for a, b in zip(average.state_dict().values(), op.state_dict().values()):
        a.copy_(b)
    assert torch.equal(average(x[..., :9]), op(x[..., :9]))


@pytest.mark.parametrize(
    'use',
    [
        lambda op: op.kernel(),
        lambda op: op.set_resolution(2),
        lambda op: op.to_conv1d(),
        lambda op: op(torch.randn(1, 2, 5), times=torch.arange(5)),
    ],
    ids=['kernel', 'set_resolution', 'to_conv1d', 'times'],
)
def test_using_a_layer_of_unknown_kernel_size_raises_an_error(use):
    with pytest.raises(RuntimeError, match='kernel_size=None and has seen no sequence'):
        use(CKConv1d(2, 3, None))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'causal': False, 'kernel_size': 8}, r'kernel_size must be odd.*got \(8,\); use \(9,\)'),
        ({'causal': False, 'kernel_size': None}, 'kernel_size'),
        ({'kernel_size': 0}, 'kernel_size'),
        ({'kernel_size': (3, 3)}, 'kernel_size'),
        ({'padding': 4}, 'a causal layer pads with zeros on the left by itself, got padding='),
        ({'padding': 'same'}, 'causal layer pads'),
        ({'padding_mode': 'circular'}, "padding_mode='circular'"),
        ({'method': 'fft', 'stride': 2}, "method='fft' needs stride 1, got stride=\\(2,\\)"),
        ({'method': 'fft', 'stride': 2, 'causal': False}, "method='fft' needs stride 1"),
        ({'causal': 1}, 'causal must be True or False'),
        ({'omega_0': 0.0}, 'omega_0 must be > 0'),
        ({'omega_0': 31.0, 'activation': 'relu'}, 'omega_0 is the frequency'),
        ({'hidden': 5, 'activation': 'rff'}, 'hidden must be even'),
        ({'layers': 1}, 'layers'),
        ({'method': 'dft'}, 'method must be one of'),
        ({'seperable': True}, "no argument 'seperable'; did you mean 'separable'"),
    ],
    ids=str,
)
def test_invalid_arguments_raise_an_error(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CKConv1d(**{'in_channels': 2, 'out_channels': 3, 'kernel_size': 9, **settings})


@pytest.mark.parametrize('shape', [(2, 20), (20,), (1, 2, 4, 5)], ids=str)
def test_inputs_of_the_wrong_rank_raise_an_error(shape):
    with pytest.raises(ValueError, match=r'input must be \(N, C, L\), got'):
        CKConv1d(2, 3, 9)(torch.randn(shape))


def test_published_weights_give_the_kernel_of_the_authors_code(data_root):
    """First layer of the network that the authors published for sequential MNIST, sampled as in their code."""
    file = data_root / 'ckconv_official' / 'mnist_perm_False_ckcnn_30.pt'
    if not file.is_file():
        pytest.skip('no published CKCNN among the real data')
    state = torch.load(file, map_location='cpu', weights_only=True)
    op = CKConv1d(1, 30, 784, omega_0=31.09195739463897)
    layers = 'backbone.0.cconv1.Kernel.kernel_net.'
    with torch.no_grad():
        for layer, index in zip(op.kernel_net.layers, (0, 4, 8)):
            g, v = (state[f'{layers}{index}.weight_{name}'][..., 0] for name in 'gv')
            layer.weight.copy_(g * v / v.norm(dim=1, keepdim=True))
            layer.bias.copy_(state[f'{layers}{index}.bias'])
        kernel = op.kernel()
    assert kernel.shape == (30, 1, 784)
    assert float(kernel.mean()) == pytest.approx(-0.073403, abs=1e-4)
    assert float(kernel.std()) == pytest.approx(0.817348, abs=1e-4)
    assert kernel[0, 0, :4].tolist() == pytest.approx([-1.948863, -2.126651, -0.553692, 1.570415], abs=1e-3)
    assert kernel[29, 0, -3:].tolist() == pytest.approx([-1.269804, -1.117483, -1.031303], abs=1e-3)
    # The impulse response shows that the last kernel sample is multiplied by the current input.
    response = op(torch.eye(784)[None, :1]) - op.bias[:, None]
    assert relative(response[0], kernel[:, 0].flip(-1)) < 1e-4
