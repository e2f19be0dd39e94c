"""The contract of every 2-D operator, as a test class: an operator's tests derive from it and name the operator."""

import copy
import inspect
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}

GEOMETRIES = {
    'plain': {},
    'stride': {'stride': 2},
    'padding': {'padding': 1},
    'same': {'padding': 'same'},
    'same_dilated': {'padding': 'same', 'dilation': 2},
    'valid': {'padding': 'valid'},
    'dilation': {'dilation': 2, 'padding': 2},
    'groups': {'groups': 2, 'padding': 1},
    'depthwise': {'groups': 4, 'padding': 1},
    'no_bias': {'bias': False},
    'mixed': {'stride': (2, 1), 'padding': (0, 2), 'dilation': (1, 2)},
    'reflect': {'padding': 1, 'padding_mode': 'reflect'},
    'replicate': {'padding': (2, 1), 'padding_mode': 'replicate'},
    'circular': {'padding': 1, 'padding_mode': 'circular'},
}

UPSTREAM_ATTRIBUTES = [
    'in_channels',
    'out_channels',
    'kernel_size',
    'stride',
    'padding',
    'dilation',
    'groups',
    'transposed',
    'output_padding',
    'padding_mode',
]


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest magnitude expected."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).abs().max() / expected.abs().max())


class OperatorContract:
    """Set ``operator``, and ``options`` that make its kernel differ from ``weight``; override :meth:`expected`."""

    operator: type[nn.Module]
    options: dict = {}
    # 'depthwise', or 'same' if there must be as many output channels as input channels and no groups.
    channels = 'any'
    # Pixels of a map padded by 1 that its border reaches.
    border = 1
    # `dynamic` of torch.compile.
    compile_dynamic: bool | None = None

    @property
    def out_channels(self) -> int:
        return 8 if self.channels == 'any' else 4

    def geometry(self, settings: dict) -> dict:
        """The settings, with the groups that the operator needs."""
        if self.channels == 'any':
            return settings
        return {**settings, 'groups': 4 if self.channels == 'depthwise' else 1}

    def plain(self, **settings) -> nn.Module:
        return nn.Conv2d(4, self.out_channels, 3, **self.geometry(settings))

    def make(self, *args, **kwargs) -> nn.Module:
        torch.manual_seed(0)
        return self.operator(*(args or (4, self.out_channels, 3)), **{**self.options, **self.geometry(kwargs)})

    def expected(self, op: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Compute the expected output of ``op`` independently."""
        raise NotImplementedError('say what the operator computes')

    def input(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(*(shape or (2, 4, 8, 7)), generator=generator, dtype=torch.float64).to(dtype)

    @pytest.mark.parametrize('geometry', GEOMETRIES)
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
    def test_computes_its_definition(self, geometry, dtype):
        op = self.make(**GEOMETRIES[geometry], dtype=dtype)
        x = self.input(dtype=dtype)
        y = op(x)
        assert y.dtype == dtype
        assert relative(y, self.expected(op, x)) < TOLERANCE[dtype]

    @pytest.mark.parametrize('geometry', GEOMETRIES)
    def test_output_shape_is_that_of_conv2d(self, geometry):
        settings = GEOMETRIES[geometry]
        assert self.make(**settings)(self.input()).shape == self.plain(**settings)(self.input()).shape

    def test_takes_the_arguments_of_conv2d_by_position(self):
        names = list(inspect.signature(nn.Conv2d).parameters)
        assert list(inspect.signature(self.operator).parameters)[: len(names)] == names
        groups = self.geometry({'groups': 2})['groups']
        channels = 4, self.out_channels
        op = self.operator(
            *channels, (3, 5), (2, 1), (1, 2), 1, groups, False, 'circular', 'meta', torch.float64, **self.options
        )
        assert (op.kernel_size, op.stride, op.padding, op.groups, op.bias) == ((3, 5), (2, 1), (1, 2), groups, None)
        assert all(p.is_meta and p.dtype == torch.float64 for p in op.parameters())

    def test_the_argument_of_forward_is_called_input_as_in_conv2d(self):
        op = self.make()
        assert torch.equal(op(input=self.input()), op(self.input()))

    def test_has_the_attributes_that_upstream_reads(self):
        op, plain = self.make(padding=1), self.plain(padding=1)
        for name in UPSTREAM_ATTRIBUTES:
            assert getattr(op, name) == getattr(plain, name), name
        assert op.weight.shape == plain.weight.shape
        assert op.bias.shape == plain.bias.shape

    def test_is_no_conv2d_but_looks_like_one_to_initialisers(self):
        op = self.make()
        assert not isinstance(op, nn.Conv2d)
        assert 'Conv2d' in [base.__name__ for base in type(op).__bases__]
        assert not hasattr(op, 'init_weights')
        assert all('Conv' not in type(m).__name__ for m in op.modules() if m is not op)

    def test_efficient_conv_bn_eval_is_refused(self):
        op = self.make()
        with pytest.raises(RuntimeError, match='switch_to_deploy'):
            op._conv_forward(self.input(), op.weight, op.bias)

    def test_geometry_rewritten_after_construction_takes_effect(self):
        op = self.make(stride=2)
        op.stride, op.padding, op.dilation = (1, 1), (2, 2), (2, 2)
        assert relative(op(self.input()), self.expected(op, self.input())) < TOLERANCE[torch.float32]

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'in_channels': 0}, 'in_channels'),
            ({'out_channels': -3}, 'out_channels'),
            ({'in_channels': 2.5}, 'in_channels'),
            ({'kernel_size': (3, 3, 3)}, 'kernel_size'),
            ({'kernel_size': 0}, 'kernel_size'),
            ({'stride': 0}, 'stride'),
            ({'padding': -1}, 'padding'),
            ({'padding': 'full'}, 'padding'),
            ({'padding': 'same', 'stride': 2}, 'same'),
            ({'dilation': 0}, 'dilation'),
            ({'groups': 3}, 'divisible'),
            ({'padding_mode': 'zero'}, "did you mean 'zeros'"),
            ({'nonsense': 1}, 'nonsense'),
        ],
        ids=str,
    )
    def test_bad_arguments_are_named(self, arguments, message):
        settings = {'in_channels': 4, 'out_channels': self.out_channels, 'kernel_size': 3, **self.options}
        settings = {**self.geometry(settings), **arguments}
        with pytest.raises((ValueError, TypeError), match=message):
            self.operator(**settings)

    @pytest.mark.parametrize('whole', [False, pytest.param(True, marks=pytest.mark.long)])
    @pytest.mark.parametrize('geometry', ['plain', 'mixed', 'groups', 'depthwise', 'reflect'])
    def test_gradcheck(self, geometry, whole):
        op = self.make(**GEOMETRIES[geometry], dtype=torch.float64)
        names = [name for name, _ in op.named_parameters()]
        values = [p.detach().clone().requires_grad_() for p in op.parameters()]
        x = self.input(1, 4, 5, 5, dtype=torch.float64).requires_grad_()

        def function(x, *values):
            return torch.func.functional_call(op, dict(zip(names, values)), (x,))

        # The whole Jacobian of a large layer takes ten seconds: outside the long tests, random directions of it do.
        large = sum(value.numel() for value in values) > 500
        assert torch.autograd.gradcheck(function, (x, *values), fast_mode=large and not whole)

    def test_every_parameter_learns(self):
        op = self.make(padding=1)
        op(self.input()).square().mean().backward()
        for name, parameter in op.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name

    @pytest.mark.parametrize('shape', [(0, 4, 8, 8), (1, 4, 3, 3)], ids=str)
    def test_empty_batch_and_smallest_input(self, shape):
        op = self.make()
        y = op(self.input(*shape))
        assert y.shape == (shape[0], self.out_channels, shape[2] - 2, shape[3] - 2)
        y.sum().backward()
        assert torch.isfinite(op.weight.grad).all()

    def test_is_translation_equivariant_away_from_the_border(self):
        op, x = self.make(padding=1), self.input(1, 4, 12, 12)
        shifted = op(torch.roll(x, (2, 3), (2, 3)))
        inside = (..., slice(4, -self.border), slice(5, -self.border))
        assert relative(shifted[inside], torch.roll(op(x), (2, 3), (2, 3))[inside]) < 1e-5

    def test_channels_last(self):
        op, x = self.make(padding=1), self.input()
        y = op.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert relative(y, self.expected(op, x)) < TOLERANCE[torch.float32]

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        op, x = self.make(padding=1), self.input()
        if dtype == torch.float16 and torch.__version__ < '2.3':
            pytest.skip('torch before 2.3 has no CPU autocast in float16')
        with torch.autocast('cpu', dtype=dtype):
            assert F.conv2d(x, x).dtype == dtype
            y = op(x)
        assert relative(y, self.expected(op, x)) < TOLERANCE[dtype]
        y.float().sum().backward()
        assert op.weight.grad.dtype == torch.float32 and torch.isfinite(op.weight.grad).all()

    def test_compiles_without_graph_breaks(self):
        op, x = self.make(padding=1), self.input()
        torch._dynamo.reset()
        compiled = torch.compile(op, fullgraph=True, backend='aot_eager', dynamic=self.compile_dynamic)
        # The second size makes torch.compile trace sizes as unknowns.
        for larger in (x, F.pad(x, (1, 2) * op.dims)):
            y = compiled(larger)
            y.sum().backward()
            assert relative(y, op(larger)) < TOLERANCE[torch.float32]
        assert op.weight.grad is not None

    def test_deepcopy_and_pickle(self):
        op, x = self.make(), self.input()
        for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
            assert torch.equal(copied(x), op(x))
            assert copied.weight is not op.weight

    def test_state_dict_round_trip(self):
        op, other = self.make(), self.make()
        with torch.no_grad():
            for p in op.parameters():
                p.add_(0.1)
        stream = io.BytesIO()
        torch.save(op.state_dict(), stream)
        stream.seek(0)
        other.load_state_dict(torch.load(stream, weights_only=True))
        assert torch.equal(op(self.input()), other(self.input()))

    def test_strict_load_of_a_plain_state_dict_keeps_the_operator_parameters(self):
        op, plain = nn.Sequential(self.make()), nn.Sequential(self.plain())
        before = {k: v.clone() for k, v in op.state_dict().items() if k not in ('0.weight', '0.bias')}
        op.load_state_dict(plain.state_dict())
        after = op.state_dict()
        assert torch.equal(op[0].weight, plain[0].weight) and torch.equal(op[0].bias, plain[0].bias)
        assert all(torch.equal(after[k], v) for k, v in before.items())

    def test_incomplete_operator_parameters_are_an_error(self):
        op = self.make()
        own = [k for k in op.state_dict() if k not in ('weight', 'bias')]
        if len(own) < 2:
            pytest.skip('the operator has no two parameters of its own')
        with pytest.raises(RuntimeError, match=own[0]):
            op.load_state_dict({k: v for k, v in op.state_dict().items() if k != own[0]})

    def test_half_parameters_keep_their_type(self):
        op = self.make(padding=1).to(torch.bfloat16)
        y = op(self.input(dtype=torch.bfloat16))
        assert y.dtype == torch.bfloat16
        assert relative(y, self.expected(copy.deepcopy(op).double(), self.input(dtype=torch.float64))) < 6e-2

    def test_same_random_numbers_as_conv2d(self):
        torch.manual_seed(3)
        op = self.operator(4, self.out_channels, 3, **self.options)
        torch.manual_seed(3)
        plain = self.plain()
        assert torch.equal(op.weight, plain.weight) and torch.equal(op.bias, plain.bias)

    def test_prints_what_it_is(self):
        text = repr(self.make(stride=2, groups=2))
        assert text.startswith(self.operator.__name__) and 'stride=(2, 2)' in text
        groups = self.geometry({'groups': 2})['groups']
        assert f'groups={groups}' in text or groups == 1

    def test_meta_device_and_moving(self):
        op = self.make(device='meta')
        assert op(torch.empty(1, 4, 5, 5, device='meta')).shape == (1, self.out_channels, 3, 3)

    @pytest.mark.gpu
    def test_cuda_equals_cpu(self):
        op, x = self.make(padding=1, dtype=torch.float64), self.input(dtype=torch.float64)
        expected = op(x)
        assert relative(op.cuda()(x.cuda()).cpu(), expected) < 1e-10
