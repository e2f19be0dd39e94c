"""CKConv2d and CKConv against the naive oracle in float64, their two methods, resolutions, and the shared contract."""

import copy
import itertools
import math
import pickle
from fractions import Fraction

import pytest
import torch
from ops.ck_oracle import conv_loop, kernel_of, network_at, sampled
from ops.contract import GEOMETRIES, HOST_ATTRIBUTES, TOLERANCE, FoldingContract, OperatorContract, relative
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmkerv.ops import CKConv, CKConv2d, continuous_kernel, frozen_kernels, set_resolution, switch_to_deploy
from mmkerv.ops.fft_convolution import fast_length, fft_convolution
from mmkerv.ops.kernel_net import KernelNet

ACTIVATIONS = ['sine', 'relu', 'swish', 'rff']


def random_op(*args, **kwargs) -> CKConv2d:
    """An operator in float64 with every parameter random."""
    torch.manual_seed(0)
    op = CKConv2d(*args, **{'hidden': 6, 'dtype': torch.float64, **kwargs})
    with torch.no_grad():
        for p in op.parameters():
            p.normal_()
    return op


def oracle(op: CKConv2d, x: torch.Tensor, ratio: tuple | None = None, padding: tuple | None = None) -> torch.Tensor:
    """The oracle's response for the parameters and geometry of ``op``."""
    y = conv_loop(
        x,
        sampled(kernel_of(op), op.kernel_size, ratio),
        op.bias,
        stride=op.stride,
        padding=op.padding if padding is None else padding,
        dilation=op.dilation,
        groups=op.groups,
        padding_mode=op.padding_mode,
    )
    return torch.from_numpy(y)


class ContinuousContract(FoldingContract, OperatorContract):
    """The shared contract for an operator whose ``weight`` is ``None``."""

    operator = CKConv2d
    fold_tolerance = 1e-6

    def expected(self, op, x):
        return oracle(op, x)

    def fold(self, op):
        return op.to_conv2d()

    def test_has_the_attributes_hosts_read(self):
        op, plain = self.make(padding=1), nn.Conv2d(4, 8, 3, padding=1)
        for name in HOST_ATTRIBUTES:
            assert getattr(op, name) == getattr(plain, name), name
        assert op.weight is None and 'weight' not in op.state_dict()
        assert op.bias.shape == plain.bias.shape

    @pytest.mark.parametrize('shape', [(0, 4, 8, 8), (1, 4, 3, 3)], ids=str)
    def test_empty_batch_and_smallest_input(self, shape):
        op = self.make()
        y = op(self.input(*shape))
        assert y.shape == (shape[0], 8, shape[2] - 2, shape[3] - 2)
        y.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in op.parameters())

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        op, x = self.make(padding=1), self.input()
        if dtype == torch.float16 and torch.__version__ < '2.3':
            pytest.skip('torch before 2.3 has no CPU autocast in float16')
        with torch.autocast('cpu', dtype=dtype):
            kernel, y = op.kernel(), op(x)
        assert y.dtype == dtype
        # The kernel net itself must not be computed in the short type: omega_0 multiplies its rounding.
        assert kernel.dtype == torch.float32 and torch.equal(kernel, op.kernel())
        assert relative(y, self.expected(op, x)) < TOLERANCE[dtype]
        y.float().sum().backward()
        for p in op.parameters():
            assert p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all()

    def test_compiles_without_graph_breaks(self):
        op, x = self.make(padding=1), self.input()
        torch._dynamo.reset()
        compiled = torch.compile(op, fullgraph=True, backend='aot_eager')
        y = compiled(x)
        y.square().sum().backward()
        gradients = [p.grad.clone() for p in op.parameters()]
        op.zero_grad()
        expected = op(x)
        expected.square().sum().backward()
        assert relative(y, expected) < TOLERANCE[torch.float32]
        assert all(relative(g, p.grad) < 1e-4 for g, p in zip(gradients, op.parameters()))

    def test_deepcopy_and_pickle(self):
        op, x = self.make(), self.input()
        op.set_resolution(2)
        expected = op(x)
        for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
            assert torch.equal(copied(x), expected) and copied.resolution == (2.0, 2.0)
            assert all(a is not b for a, b in zip(copied.parameters(), op.parameters()))

    def test_strict_load_of_a_plain_state_dict_keeps_the_operator_parameters(self):
        """There is no basic kernel that could take the plain weight, so the load is refused."""
        op = nn.Sequential(self.make())
        with pytest.raises(RuntimeError, match=r'(?s)Missing.*0\.kernel_net.*Unexpected.*"0\.weight"'):
            op.load_state_dict(nn.Sequential(nn.Conv2d(4, 8, 3)).state_dict())

    def test_same_random_numbers_as_conv2d(self):
        """Without a weight only the distribution of the bias can be that of a plain convolution."""
        torch.manual_seed(3)
        biases = torch.cat([self.operator(4, 8, 3, **self.options).bias for _ in range(100)]).abs()
        assert 0.99 < biases.max() * math.sqrt(4 * 9) <= 1
        assert abs(biases.mean() * math.sqrt(4 * 9) - 0.5) < 0.05

    def test_reset_parameters_draws_what_the_constructor_drew(self):
        op, other = self.make(), self.make()
        with torch.no_grad():
            for p in other.parameters():
                p.fill_(7.0)
        torch.manual_seed(0)
        other.reset_parameters()
        assert all(torch.equal(a, b) for a, b in zip(op.parameters(), other.parameters()))

    @pytest.mark.parametrize('geometry', GEOMETRIES)
    def test_fold_is_exact(self, geometry):
        op = self.make(**GEOMETRIES[geometry])
        conv = op.to_conv2d(dense=True)
        assert type(conv) is nn.Conv2d
        assert torch.equal(conv.weight, op.kernel())
        assert conv.extra_repr() == nn.Conv2d(4, 8, 3, **GEOMETRIES[geometry]).extra_repr()
        for folded in (conv, self.fold(op)):
            assert relative(folded(self.input()), op(self.input())) < self.fold_tolerance

    def test_fold_keeps_type_mode_and_requires_grad(self):
        op = self.make(dtype=torch.float64).eval().requires_grad_(False)
        for folded in (self.fold(op), op.to_conv2d(dense=True)):
            assert not any(m.training for m in folded.modules())
            assert all(p.dtype == torch.float64 and not p.requires_grad for p in folded.parameters())
        assert all(p.requires_grad for p in self.fold(op.requires_grad_(True)).parameters())

    def test_fold_shares_nothing(self):
        op = self.make()
        before = op(self.input()).clone()
        with torch.no_grad():
            for p in self.fold(op).parameters():
                p.zero_()
        assert torch.equal(op(self.input()), before)


class TestDense(ContinuousContract):
    options = {'hidden': 2, 'method': 'direct'}


class TestSeparable(ContinuousContract):
    options = {'hidden': 2, 'method': 'direct', 'separable': True}

    def test_folds_into_a_depthwise_and_a_1x1_convolution(self):
        op = self.make(padding=1, dilation=2, groups=2, padding_mode='circular')
        depthwise, pointwise = op.to_conv2d()
        wanted = nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4, padding_mode='circular', bias=False)
        assert depthwise.extra_repr() == wanted.extra_repr()
        assert pointwise.extra_repr() == nn.Conv2d(4, 8, 1, groups=2).extra_repr()

    def test_the_kernel_of_half_parameters_is_rounded_once(self):
        op = self.make(dtype=torch.bfloat16)
        assert torch.equal(op.kernel(), copy.deepcopy(op).float().kernel().bfloat16())


class TestFourier(ContinuousContract):
    fold_tolerance = 1e-5

    def make(self, *args, **kwargs):
        strided = kwargs.get('stride', 1) != 1
        return super().make(*args, **{'hidden': 2, 'method': 'direct' if strided else 'fft', **kwargs})

    def test_channels_last(self):
        super().test_channels_last()


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'kernel_size': (3, 7)},
        {'kernel_size': (5, 1), 'layers': 2},
        {'kernel_size': 1},
        {'groups': 2, 'layers': 4},
        {'groups': 2, 'separable': True, 'kernel_size': (5, 3)},
        {'separable': True},
    ],
    ids=str,
)
def test_kernel_is_the_network_of_the_position(activation, settings):
    omega = {'omega_0': 3.5} if activation in ('sine', 'rff') else {}
    settings = {'in_channels': 4, 'out_channels': 6, 'kernel_size': 5, **settings}
    op = random_op(**settings, activation=activation, **omega)
    assert relative(op.kernel(), torch.from_numpy(sampled(kernel_of(op), op.kernel_size))) < 1e-11


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_functional_core(activation):
    generator = torch.Generator().manual_seed(0)
    sizes = [(4 if activation == 'rff' else 8, 3), (5, 8), (7, 5)]
    weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    biases = [torch.randn(s[0], generator=generator, dtype=torch.float64) for s in sizes]
    positions = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 2 - 1
    values = continuous_kernel(positions, weights, biases, activation=activation, omega_0=7.0)
    expected = torch.tensor([network_at(p, weights, biases, activation, 7.0).tolist() for p in positions.tolist()]).T
    assert values.shape == (7, 4) and relative(values, expected) < 1e-6


def test_functional_core_refuses_what_does_not_fit():
    weights, biases = [torch.ones(2, 1), torch.ones(3, 2)], [torch.zeros(2), torch.zeros(3)]
    with pytest.raises(ValueError, match=r"activation.*did you mean 'sine'"):
        continuous_kernel(torch.zeros(1, 1), weights, biases, activation='sin')
    with pytest.raises(ValueError, match='biases must be as many as weights, got 1 for 2'):
        continuous_kernel(torch.zeros(1, 1), weights, biases[:1])


def test_parameters_do_not_grow_with_the_kernel():
    small, large = CKConv2d(3, 8, 3), CKConv2d(3, 8, 31)
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in large.state_dict().items()}


@pytest.mark.parametrize('method', ['direct', 'fft', 'auto'])
@pytest.mark.parametrize('settings', [{}, {'separable': True}, {'groups': 2}], ids=str)
def test_kernel_as_large_as_the_feature_map(method, settings):
    op = random_op(4, 6, (9, 7), padding=(4, 3), method=method, **settings)
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    y = op(x)
    assert y.shape == (2, 6, 9, 7) and relative(y, oracle(op, x)) < 1e-11
    op.kernel_size = (17, 13)
    op.padding = (8, 6)
    assert relative(op(x), oracle(op, x)) < 1e-11


METHOD_SETTINGS = [
    {},
    {'groups': 2},
    {'in_channels': 6, 'out_channels': 6, 'groups': 6},
    {'in_channels': 3, 'out_channels': 9, 'groups': 3},
    {'separable': True, 'groups': 2},
    {'dilation': (1, 2), 'padding': (3, 6)},
    {'dilation': 3, 'kernel_size': 3},
    {'padding': 'same', 'dilation': 2, 'kernel_size': 3},
    {'padding': 'valid', 'bias': False},
    {'padding': 3, 'padding_mode': 'circular'},
    {'padding': (3, 2), 'padding_mode': 'reflect'},
    {'padding': 8, 'padding_mode': 'replicate'},
    {'kernel_size': (11, 1), 'padding': (7, 0)},
    {'kernel_size': 1},
]


@pytest.mark.parametrize('settings', METHOD_SETTINGS, ids=str)
@pytest.mark.parametrize('size', [(12, 13), (11, 10)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_fourier_equals_direct(settings, size, dtype):
    settings = {'in_channels': 4, 'out_channels': 6, 'kernel_size': 5, 'hidden': 8, 'dtype': dtype, **settings}
    results = []
    for method in ('direct', 'fft', 'auto'):
        torch.manual_seed(0)
        op = CKConv2d(**settings, method=method)
        x = torch.randn(2, settings['in_channels'], *size, dtype=dtype, requires_grad=True)
        y = op(x)
        (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum().backward()
        results.append([y, x.grad, *(p.grad for p in op.parameters())])
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-11}[dtype]
    for result in results[1:]:
        for a, b in zip(result, results[0]):
            # The gradient of a first layer at the one position 0 is 0.
            assert bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize('stride', [2, (1, 3)])
def test_auto_with_a_stride_is_direct(stride):
    torch.manual_seed(0)
    op = CKConv2d(4, 6, 9, stride=stride, padding=4, method='auto')
    x = torch.randn(2, 4, 16, 15)
    assert relative(op(x), op.to_conv2d()(x)) < 1e-5


@pytest.mark.parametrize(
    ('memory_format', 'bias', 'separable'),
    [
        (torch.contiguous_format, True, False),
        (torch.contiguous_format, False, True),
        (torch.contiguous_format, False, False),
        (torch.channels_last, True, True),
        (torch.channels_last, True, False),
        (torch.channels_last, False, False),
    ],
    ids=str,
)
def test_fourier_keeps_the_layout_in_memory(memory_format, bias, separable):
    """mmcv's compiled operators read what comes in as contiguous, whatever it is."""
    op = CKConv2d(4, 8, 3, padding=1, bias=bias, separable=separable, method='fft').to(memory_format=memory_format)
    assert op(torch.randn(2, 4, 8, 7).to(memory_format=memory_format)).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('method', ['direct', 'fft'])
def test_autocast_leaves_double_precision_alone(method):
    """As it does for torch's convolutions."""
    op, x = random_op(4, 6, 3, method=method), torch.randn(1, 4, 6, 6, dtype=torch.float64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = op(x)
    assert y.dtype == torch.float64 and relative(y, oracle(op, x)) < 1e-11


@pytest.mark.parametrize('method', ['direct', 'fft'])
def test_one_image_without_a_batch(method):
    op, x = random_op(4, 6, 3, padding=1, method=method), torch.randn(4, 6, 5, dtype=torch.float64)
    assert relative(op(x), oracle(op, x[None])[0]) < 1e-11


def test_fourier_names_what_does_not_fit():
    with pytest.raises(ValueError, match='at least as large as the dilated kernel'):
        CKConv2d(4, 8, 9, method='fft')(torch.randn(1, 4, 8, 12))
    with pytest.raises(ValueError, match='x has 3 channels, the kernel takes 4'):
        CKConv2d(4, 8, 3, method='fft')(torch.randn(1, 3, 8, 8))


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that was made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (list, tuple)) else [result]
        self.numel = max([self.numel, *(t.numel() for t in tensors if isinstance(t, torch.Tensor))])
        return result


def test_fourier_makes_no_tensor_of_all_channel_pairs_of_each_image():
    batch, channels, size = 16, 10, 32
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    kernel = torch.randn(channels, channels, size, size, requires_grad=True)
    with Largest() as mode:
        fft_convolution(x, kernel, None, [(16, 16)] * 2, (1, 1), 1).sum().backward()
    spectrum = 64 * 33
    # What it must make at least: the spectrum of the kernel.
    assert channels**2 * spectrum <= mode.numel < batch * channels**2 * spectrum / 2


def test_transforms_have_lengths_without_large_prime_factors():
    def smooth(n):
        for p in (2, 3, 5, 7):
            while n % p == 0:
                n //= p
        return n == 1

    even = [n for n in range(2, 3000, 2) if smooth(n)]
    for n in range(2, 2400):
        assert fast_length(n) == next(e for e in even if e >= n)
    assert fast_length(1) == 1


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize(
    'settings', [{}, {'kernel_size': (3, 9)}, {'groups': 4}, {'kernel_size': 1}, {'layers': 2, 'hidden': 4}], ids=str
)
def test_initial_kernel_has_variance_one_over_fan_in(activation, settings):
    torch.manual_seed(0)
    op = CKConv2d(**{'in_channels': 8, 'out_channels': 16, 'kernel_size': 7, **settings, 'activation': activation})
    fan_in = 8 // op.groups * math.prod(op.kernel_size)
    assert float(op.kernel().detach().var(unbiased=False)) * fan_in == pytest.approx(1, rel=1e-3)


def test_initial_separable_kernel_has_variance_one_over_fan_in_in_each_factor():
    torch.manual_seed(0)
    op = CKConv2d(64, 128, 7, groups=2, separable=True)
    depthwise, pointwise = (conv.weight.detach() for conv in op.to_conv2d())
    assert float(depthwise.var(unbiased=False)) * 49 == pytest.approx(1, rel=1e-3)
    assert float(pointwise.var(unbiased=False)) * 32 == pytest.approx(1, rel=0.1)
    assert float(op.kernel().detach().var(unbiased=False)) * 49 * 32 == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    ('activation', 'hidden'),
    [
        ('relu', 1),
        ('relu', 2),
        ('rff', 2),
        ('swish', 1),
        ('sine', 1),
    ],
)
def test_initial_kernels_of_narrow_nets_are_finite_and_moderate(activation, hidden):
    """A ReLU net of one unit may be 0 at every position, which no scale of its last layer repairs."""
    for seed in range(12):
        torch.manual_seed(seed)
        op = CKConv2d(3, 8, 3, activation=activation, hidden=hidden)
        assert max(float(p.detach().abs().max()) for p in op.parameters()) < 1e3, seed


def test_loading_never_rescales():
    torch.manual_seed(0)
    trained, other = CKConv2d(4, 8, 5, padding=2), CKConv2d(4, 8, 5, padding=2)
    with torch.no_grad():
        for p in trained.kernel_net.layers[-1].parameters():
            p.mul_(3)
    assert float(trained.kernel().detach().var(unbiased=False)) * 100 == pytest.approx(9, rel=1e-3)
    other.load_state_dict(trained.state_dict())
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(other.kernel(), trained.kernel()) and torch.equal(other(x), trained(x))


def test_memory_made_on_the_meta_device_can_be_initialised():
    op = CKConv2d(4, 8, 5, device='meta', activation='rff')
    assert all(t.is_meta for t in op.state_dict().values())
    op.to_empty(device='cpu')
    op.reset_parameters()
    assert float(op.kernel().detach().var(unbiased=False)) * 100 == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize('separable', [True, False])
@pytest.mark.parametrize(
    'rule', [{'type': 'Kaiming'}, {'type': 'Normal', 'std': 5.0}, {'type': 'Constant', 'val': 3.0}]
)
@pytest.mark.parametrize('layer', ['Conv2d', 'Linear', ['Conv2d', 'Linear', 'Conv1d', '_BatchNorm']], ids=str)
def test_initialisers_of_the_hosts_leave_the_kernel_net_alone(separable, rule, layer):
    initialize = pytest.importorskip('mmengine.model').initialize
    torch.manual_seed(0)
    model = nn.Sequential(CKConv2d(4, 8, 3, separable=separable), nn.Conv2d(8, 8, 3), nn.Linear(8, 8))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    initialize(model, {**rule, 'layer': layer, 'bias': 0.25})
    after = model.state_dict()
    changed = {k for k, v in before.items() if not torch.equal(v, after[k])}
    names = ['0.bias', '1.weight', '1.bias'] * ('Conv2d' in layer) + ['2.weight', '2.bias'] * ('Linear' in layer)
    assert changed == set(names)


def test_a_conv_module_initialises_the_bias_only():
    cnn = pytest.importorskip('mmcv.cnn')
    torch.manual_seed(0)
    module = cnn.ConvModule(4, 8, 3, padding=1, conv_cfg={'type': CKConv, 'hidden': 8}, norm_cfg={'type': 'BN'})
    assert type(module.conv) is CKConv2d
    before = module.conv.kernel().detach().clone()
    module.init_weights()
    assert torch.equal(module.conv.kernel(), before)
    assert module(torch.randn(2, 4, 6, 6)).shape == (2, 8, 6, 6)


RATIOS = [2, 3, 0.5, 1.5, 1 / 3, (2, 0.5), (1, 3), (0.75, 1.25)]


@pytest.mark.parametrize('ratio', RATIOS, ids=str)
@pytest.mark.parametrize('settings', [{}, {'separable': True, 'groups': 2}, {'method': 'fft', 'dilation': 2}], ids=str)
def test_another_resolution_is_the_same_function_on_another_grid(ratio, settings):
    op = random_op(4, 6, (7, 9), **settings)
    ratios = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    expected = torch.from_numpy(sampled(kernel_of(op), op.kernel_size, ratios))
    assert op.kernel(ratio).shape == expected.shape and relative(op.kernel(ratio), expected) < 1e-11
    # No smaller than the kernel, here or at resolution 1.
    size = [d * max(now, k) + 2 for now, k, d in zip(expected.shape[2:], op.kernel_size, op.dilation)]
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    wanted = oracle(op, x, ratios)
    assert relative(op(x, scale_factor=ratio), wanted) < 1e-11
    op.set_resolution(ratio)
    assert torch.equal(op.kernel(), op.kernel(ratio)) and relative(op(x), wanted) < 1e-11
    assert relative(op(x, scale_factor=1), oracle(op, x)) < 1e-11, 'scale_factor is absolute'
    assert 'resolution=' in repr(op) and not any('resolution' in k for k in op.state_dict())
    op.set_resolution(1)
    assert relative(op(x), oracle(op, x)) < 1e-11 and 'resolution=' not in repr(op)


@pytest.mark.parametrize(
    ('settings', 'ratio', 'padding'),
    [
        ({'padding': 3}, 2, (6, 6)),
        ({'padding': 3}, 0.5, (1, 1)),
        ({'padding': 3}, (1, 3), (3, 9)),
        ({'padding': 3}, 1.5, (4, 4)),
        ({'padding': 6, 'dilation': 2}, 2, (12, 12)),
        ({'padding': (1, 0)}, 2, (2, 0)),
        ({'padding': 5}, 2, (10, 10)),
        ({'padding': 'same'}, 2, 'same'),
        ({'padding': 'valid'}, 2, 'valid'),
        ({'padding': 3, 'padding_mode': 'circular'}, 2, (6, 6)),
        ({'padding': 3, 'separable': True}, 2, (6, 6)),
        ({'kernel_size': (7, 1), 'padding': (3, 0)}, 2, (6, 0)),
    ],
    ids=str,
)
def test_padding_grows_with_the_resolution(settings, ratio, padding):
    op = random_op(**{'in_channels': 4, 'out_channels': 6, 'kernel_size': 7, **settings})
    x = torch.randn(1, 4, 24, 25, dtype=torch.float64)
    ratios = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    y = op(x, scale_factor=ratio)
    assert relative(y, oracle(op, x, ratios, padding)) < 1e-11
    op.set_resolution(ratio)
    for folded in (op.to_conv2d(), op.to_conv2d(dense=True)):
        assert relative(folded(x), y) < 1e-11


@pytest.mark.parametrize(
    ('ratio', 'size', 'dilation', 'padding'),
    [
        *((r, 7, 1, padding) for r in (0.5, 0.75, 1.5, 2.0) for padding in (3, 2)),
        *((r, 5, 4, padding) for r in (0.5, 1.5, 2.0) for padding in (8, 4)),
        (0.75, 5, 4, 8),
        (0.75, 5, 4, 4),
        (1.5, 3, 5, 7),
    ],
)
def test_the_first_output_stays_where_it_was(ratio, size, dilation, padding):
    """Its window is centred on the same place of the picture, to within one of the coarser samples."""
    op = CKConv2d(1, 1, size, dilation=dilation, padding=padding, bias=False)
    op.set_resolution(ratio)
    conv = op.to_conv2d()
    centre = dilation * (size - 1) / 2 - padding
    now = dilation * (conv.kernel_size[0] - 1) / 2 - conv.padding[0]
    assert abs(now / ratio - centre) <= max(1, 1 / ratio)


@pytest.mark.parametrize('separable', [True, False])
def test_response_to_a_finer_picture_converges_to_the_response_to_the_coarse_one(separable):
    """Both are Riemann sums of one integral, so they differ by about one sample of the kernel's width."""

    def picture(samples):
        i = torch.linspace(0, 1, samples, dtype=torch.float64)
        return torch.stack([torch.sin(3 * i[:, None] + 2 * i), torch.cos(2 * i[:, None] * i)])[None]

    errors = []
    for size in (5, 9, 17, 33):
        torch.manual_seed(0)
        op = CKConv2d(2, 3, size, hidden=8, omega_0=2.0, separable=separable, dtype=torch.float64)
        coarse, fine = picture(2 * size + 1), picture(4 * size + 1)
        y = op(fine, scale_factor=2)[..., ::2, ::2]
        errors.append(relative(y, op(coarse)))
    assert all(after < 0.65 * before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.1


def test_set_resolution_of_a_model():
    torch.manual_seed(0)
    shared = CKConv2d(4, 4, 7, padding=3)
    model = nn.Sequential(CKConv2d(3, 4, 5, padding=2), nn.Sequential(nn.ReLU(), shared), shared, nn.Conv2d(4, 2, 1))
    x = torch.randn(1, 3, 12, 12)
    expected = copy.deepcopy(model)
    for m in (expected[0], expected[1][1]):
        m.set_resolution((2, 1))
    assert set_resolution(model, (2, 1)) == ['0', '1.1']
    assert torch.equal(model(x), expected(x)) and model(x).shape == (1, 2, 12, 12)
    assert set_resolution(model, 1) == ['0', '1.1'] and not torch.equal(model(x), expected(x))


def test_set_resolution_changes_all_layers_or_none():
    model = nn.Sequential(CKConv2d(3, 4, 7), nn.Sequential(CKConv2d(4, 4, 3)))
    with pytest.raises(ValueError, match=r'1\.0: at resolution 0\.5 a kernel of 3 samples has none left'):
        set_resolution(model, 0.5)
    assert model[0].resolution == (1.0, 1.0)


def test_set_resolution_of_a_half_frozen_model_changes_nothing():
    model = nn.Sequential(CKConv2d(3, 4, 7), nn.Sequential(CKConv2d(4, 4, 3)))
    with frozen_kernels(model[1]), pytest.raises(RuntimeError, match='frozen_kernels'):
        set_resolution(model, 2)
    assert model[0].resolution == model[1][0].resolution == (1.0, 1.0)


def test_set_resolution_of_a_single_operator_has_no_name_to_tell():
    with pytest.raises(ValueError, match=r'^at resolution 0\.1 a kernel of 3 samples'):
        set_resolution(CKConv2d(3, 4, 3), 0.1)


@pytest.mark.parametrize('model', [nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU()], ids=repr)
def test_set_resolution_needs_a_continuous_kernel(model):
    with pytest.raises(ValueError, match='found no CKConv'):
        set_resolution(model, 2)


@pytest.mark.parametrize(
    ('ratio', 'message'),
    [
        (0, 'resolution must be > 0, got 0'),
        (-1, 'resolution'),
        (math.nan, 'resolution'),
        (math.inf, 'resolution'),
        ('2', 'resolution must be a number'),
        (True, 'resolution'),
        (None, 'resolution'),
        ((2, 2, 2), 'one number or 2 of them'),
        ((2, 0.1), '0.1 a kernel of 7 samples has none left'),
        (0.3, '0.3 a kernel of 7 samples has none left'),
    ],
    ids=str,
)
def test_bad_resolutions_are_named(ratio, message):
    op = CKConv2d(3, 4, 7)
    calls = [op.set_resolution, lambda ratio: set_resolution(op, ratio)]
    if ratio is not None:
        calls += [op.kernel, lambda ratio: op(torch.randn(1, 3, 9, 9), scale_factor=ratio)]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=message):
            call(ratio)
    assert op.resolution == (1.0, 1.0)


@pytest.mark.parametrize('size', [3, 5, 9, 7, 19, 39])
def test_the_ratio_that_the_refusal_suggests_is_accepted(size):
    op = CKConv2d(1, 1, size)
    with pytest.raises(ValueError, match='at least') as caught:
        op.set_resolution(0.01)
    op.set_resolution(float(Fraction(str(caught.value).partition('at least ')[2].partition(',')[0])))
    assert op.kernel().shape == (1, 1, 3, 3)


@pytest.fixture
def computed(monkeypatch):
    """The kernel nets that were evaluated, in order."""
    calls, original = [], KernelNet.forward
    monkeypatch.setattr(KernelNet, 'forward', lambda self, positions: calls.append(self) or original(self, positions))
    return calls


@pytest.mark.parametrize('separable', [True, False])
def test_frozen_kernels_compute_each_kernel_once(separable, computed):
    torch.manual_seed(0)
    model = nn.Sequential(*(CKConv2d(4, 4, 5, padding=2, separable=separable) for _ in range(2))).eval()
    x = torch.randn(1, 4, 9, 9)
    set_resolution(model, 1.5)
    expected, other = model(x), model[0](x, scale_factor=2)
    computed.clear()
    with frozen_kernels(model), torch.no_grad():
        assert all(torch.equal(model(x), expected) for _ in range(3)) and len(computed) == 2
        assert torch.equal(model[0](x, scale_factor=1.5), model[0](x)) and len(computed) == 2
        assert torch.equal(model[0](x, scale_factor=2), other), 'another resolution needs another kernel'
        for layer in model:
            with pytest.raises(RuntimeError, match='set_resolution was called inside frozen_kernels'):
                layer.set_resolution(2)
    with torch.no_grad():
        model[0].kernel_net.layers[0].weight.mul_(0.5)
    assert not torch.equal(model(x), expected)
    with frozen_kernels(model), pytest.raises(RuntimeError, match='Train outside the block'):
        model.train()(x)


def test_folds_in_a_model():
    torch.manual_seed(0)
    dense, separable = CKConv2d(3, 8, 5, padding=2), CKConv2d(8, 6, (3, 7), stride=2, separable=True)
    model = nn.Sequential(dense, nn.Sequential(nn.ReLU(), separable), nn.Conv2d(6, 2, 1)).eval()
    set_resolution(model, 2)
    x = torch.randn(2, 3, 24, 24)
    expected = model(x)
    report = switch_to_deploy(model)
    assert report.replaced == ['0', '1.1'] and report.kept == {}
    assert type(model[0]) is nn.Conv2d and [type(m) for m in model[1][1]] == [nn.Conv2d, nn.Conv2d]
    assert not any(isinstance(m, (CKConv2d, KernelNet)) for m in model.modules())
    assert relative(model(x), expected) < 1e-5
    with pytest.raises(ValueError, match='folded'):
        set_resolution(model, 1)


def test_fold_wants_to_know_dense_exactly():
    with pytest.raises(TypeError, match='dense must be True or False'):
        CKConv2d(3, 4, 3).to_conv2d(dense='no')


BAD_OPTIONS = [
    ({'kernel_size': 4}, r'kernel_size must be odd.*use \(5, 5\)'),
    ({'kernel_size': (3, 2)}, r'kernel_size must be odd.*use \(3, 3\)'),
    ({'omega_0': 0}, 'omega_0 must be > 0, got 0'),
    ({'omega_0': -30.0}, 'omega_0'),
    ({'omega_0': math.nan}, 'omega_0'),
    ({'omega_0': math.inf}, 'omega_0'),
    ({'omega_0': '30'}, 'omega_0 must be a number'),
    ({'omega_0': 30.0, 'activation': 'relu'}, 'omega_0 is the frequency'),
    ({'omega_0': 30.0, 'activation': 'swish'}, 'leave omega_0 out'),
    ({'hidden': 0}, 'hidden must be >= 1'),
    ({'hidden': 8.5}, 'hidden'),
    ({'hidden': 7, 'activation': 'rff'}, 'hidden must be even'),
    ({'layers': 1}, 'layers must be >= 2, got 1'),
    ({'activation': 'siren'}, "activation.*did you mean 'sine'"),
    ({'activation': None}, 'activation'),
    ({'separable': 1}, 'separable must be True or False'),
    ({'method': 'fftconv'}, "method.*did you mean 'fft'"),
    ({'method': 'fft', 'stride': 2}, "method='fft' needs stride 1, got stride=\\(2, 2\\)"),
    ({'method': 'fft', 'stride': (1, 2)}, 'stride'),
    ({'omega': 30.0}, "no argument 'omega'; did you mean 'omega_0'"),
    ({'causal': True}, "no argument 'causal'"),
]


@pytest.mark.parametrize(('options', 'message'), BAD_OPTIONS, ids=str)
@pytest.mark.parametrize('kind', [CKConv, CKConv2d])
def test_bad_options_are_named(kind, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**{'in_channels': 3, 'out_channels': 8, 'kernel_size': 3, **options})


def test_a_stride_rewritten_after_construction_is_refused_too():
    op = CKConv2d(3, 8, 3, method='fft')
    op.stride = (2, 2)
    with pytest.raises(ValueError, match="method='fft' needs stride 1"):
        op(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize('size', [1, (1, 1)])
def test_1x1_stays_plain_and_is_checked(size):
    torch.manual_seed(0)
    conv = CKConv(4, 8, size, stride=2, bias=False, hidden=8, kernel_extent=7)
    torch.manual_seed(0)
    assert type(conv) is nn.Conv2d and torch.equal(conv.weight, nn.Conv2d(4, 8, 1, bias=False).weight)
    assert conv.stride == (2, 2) and conv.padding == (0, 0)
    assert type(CKConv(4, 8, size, replace_1x1=True)) is CKConv2d
    assert type(CKConv(4, 8, (1, 3))) is CKConv2d
    for bad in ({'omega_0': 0}, {'hidden': 3, 'activation': 'rff'}, {'replace_1x1': 1}):
        with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
            CKConv(4, 8, size, **bad)
    with pytest.raises(TypeError, match="did you mean 'omega_0'"):
        CKConv(4, 8, size, omega=30.0)


def test_the_arguments_of_a_convolution_reach_the_operator():
    op = CKConv(4, 8, (3, 5), (2, 1), (1, 2), 1, 2, False, 'circular', hidden=8, omega_0=20.0, activation='rff')
    plain = nn.Conv2d(4, 8, (3, 5), (2, 1), (1, 2), 1, 2, False, 'circular')
    assert op.extra_repr() == f"{plain.extra_repr()}, hidden=8, omega_0=20.0, activation='rff'"


@pytest.mark.parametrize(
    ('host', 'extent', 'kernel_size', 'padding'),
    [
        ({'kernel_size': 3, 'padding': 1}, 7, (7, 7), (3, 3)),
        ({'kernel_size': 3, 'padding': 1, 'stride': 2}, 7, (7, 7), (3, 3)),
        ({'kernel_size': 3}, 7, (7, 7), (2, 2)),
        ({'kernel_size': 3, 'padding': 'valid'}, 5, (5, 5), (1, 1)),
        ({'kernel_size': 3, 'padding': 'same'}, 5, (5, 5), 'same'),
        ({'kernel_size': 3, 'padding': 2, 'dilation': 2}, 5, (5, 5), (4, 4)),
        ({'kernel_size': 3, 'padding': 1}, (7, 1), (7, 1), (3, 0)),
        ({'kernel_size': 7, 'padding': 3, 'stride': 2}, 3, (3, 3), (1, 1)),
        ({'kernel_size': (1, 3), 'padding': (0, 1)}, 3, (3, 3), (1, 1)),
        ({'kernel_size': 4, 'padding': 2, 'dilation': 2}, 7, (7, 7), (5, 5)),
        ({'kernel_size': 3, 'padding': 1, 'padding_mode': 'reflect', 'stride': 2}, 5, (5, 5), (2, 2)),
    ],
    ids=str,
)
def test_kernel_extent_keeps_the_size_of_the_output(host, extent, kernel_size, padding):
    op = CKConv(3, 4, **host, kernel_extent=extent, hidden=4)
    assert (op.kernel_size, op.padding) == (kernel_size, padding)
    for size in ((12, 13), (15, 16)):
        x = torch.randn(1, 3, *size)
        assert op(x).shape == nn.Conv2d(3, 4, **host)(x).shape


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'kernel_size': 4, 'kernel_extent': 7}, 'kernels of even size have none'),
        ({'kernel_size': 7, 'kernel_extent': 3}, 'use a larger kernel_extent'),
        ({'kernel_size': 7, 'padding': (3, 1), 'kernel_extent': 3}, 'use a larger kernel_extent'),
        ({'kernel_size': 3, 'kernel_extent': 0}, 'kernel_extent'),
        ({'kernel_size': 3, 'kernel_extent': 7.0}, 'kernel_extent'),
        ({'kernel_size': 3, 'kernel_extent': (3, 3, 3)}, 'kernel_extent'),
        ({'kernel_size': 3, 'kernel_extent': 5, 'padding': 'full'}, 'padding'),
        ({'kernel_size': 3, 'kernel_extent': 5, 'padding': 'same', 'stride': 2}, 'same'),
    ],
    ids=str,
)
def test_kernel_extents_without_a_padding_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CKConv(3, 4, **settings)


@pytest.mark.parametrize('size', [1, 3])
def test_an_even_extent_is_called_by_its_name(size):
    with pytest.raises(ValueError, match='kernel_extent must be odd'):
        CKConv(3, 4, size, kernel_extent=4)
