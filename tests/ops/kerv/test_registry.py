"""Registration of user-defined kernels, and errors for invalid arguments of KervConv."""

import math

import pytest
import torch
from torch import nn

from mmkerv.ops import KervConv1d, KervConv2d, KervConv3d, kerv2d, register_kernel
from mmkerv.ops.core.precision import autocast_type
from mmkerv.ops.kerv import registry
from tests.ops.contract import relative


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """Remove kernels that a test registers when it ends."""
    monkeypatch.setattr(registry, 'KERNELS', dict(registry.KERNELS))


def pair(kernel: str, **settings) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a layer, inputs of one patch each, the inner products s and the differences patch - filter."""
    torch.manual_seed(0)
    op = KervConv2d(2, 4, 3, bias=False, kernel=kernel, dtype=torch.float64, **settings)
    x = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    difference = x.flatten(1).unsqueeze(1) - op.weight.detach().flatten(1)
    return op, x, x.flatten(1) @ op.weight.detach().flatten(1).T, difference


def test_a_function_of_the_inner_product_can_be_registered():
    @register_kernel('softplus', family='dot')
    def softplus(s):
        return torch.nn.functional.softplus(s)

    op, x, s, _ = pair('softplus')
    assert softplus(torch.zeros(1)).item() == pytest.approx(math.log(2)), 'the decorator returns the function'
    assert relative(op(x).flatten(1), s.exp().log1p()) < 1e-12


def test_a_function_of_the_inner_product_and_the_norms_can_be_registered():
    @register_kernel('cosine', family='dot')
    def cosine(s, x2, w2):
        return s / (x2 * w2).sqrt()

    op, x, s, _ = pair('cosine')
    expected = s / x.flatten(1).norm(dim=1, keepdim=True) / op.weight.flatten(1).norm(dim=1)
    assert relative(op(x).flatten(1), expected) < 1e-12
    groups = KervConv2d(4, 6, 3, kernel='cosine', groups=2, bias=False)
    x = torch.randn(3, 4, 3, 3)
    halves = [
        torch.nn.functional.cosine_similarity(a.flatten(1).unsqueeze(1), w.flatten(1), dim=2)
        for a, w in zip(x.chunk(2, 1), groups.weight.chunk(2))
    ]
    assert relative(groups(x).flatten(1), torch.cat(halves, 1)) < 1e-5


def test_a_radial_function_with_its_own_hyperparameters_can_be_registered():
    @register_kernel('student', family='radial')
    def student(d2, *, gamma, nu: float = 2.5, power: int = 2):
        return (1 + gamma * d2 / nu) ** -power

    op, x, _, difference = pair('student', learnable=True, nu=1.5, power=3)
    d2 = difference.square().sum(2)
    assert relative(op(x).flatten(1), (1 + d2 / 18 / 1.5) ** -3) < 1e-12
    assert [n for n, _ in op.named_parameters()] == ['weight', 'gamma', 'nu'] and op.power == 3
    op(x).sum().backward()
    slope = (3 * (1 + d2 / 27) ** -4 * d2 / 18 / 1.5**2).sum()
    assert op.nu.grad.item() == pytest.approx(slope.item())
    assert "kernel='student', gamma=auto, nu=1.5, power=3, learnable=True" in repr(op)
    assert pair('student')[0].nu == 2.5
    assert relative(kerv2d(x, op.weight, kernel='student', nu=1.5, power=3), op(x)) < 1e-12


def test_a_function_of_the_absolute_distance_can_be_registered():
    @register_kernel('sum of exponentials', family='manhattan')
    def exponential(d1, *, gamma):
        return torch.exp(-gamma * d1)

    op, x, _, difference = pair('sum of exponentials', gamma=0.2)
    assert relative(op(x).flatten(1), torch.exp(-0.2 * difference.abs().sum(2))) < 1e-12


def test_known_hyperparameters_are_validated_for_registered_kernels_too():
    @register_kernel('power', family='dot')
    def power(s, *, degree, balance):
        return (s + balance) ** degree

    op, x, s, _ = pair('power')
    assert relative(op(x).flatten(1), (s + 1) ** 3) < 1e-12
    with pytest.raises(ValueError, match='balance must be >= 0'):
        pair('power', balance=-1)
    with pytest.raises(ValueError, match='degree must be >= 1'):
        pair('power', degree=0)


def test_a_registered_function_receives_float32_under_half_precision_and_autocast():
    seen = []

    @register_kernel('spy', family='radial')
    def spy(d2):
        seen.append((d2.dtype, autocast_type(d2.device)))
        return d2

    x, op, half = (
        torch.randn(1, 2, 4, 4),
        KervConv2d(2, 3, 3, kernel='spy'),
        KervConv2d(2, 3, 3, kernel='spy').bfloat16(),
    )
    seen.clear()
    with torch.autocast('cpu', torch.bfloat16):
        assert op(x).dtype == torch.float32
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert seen == [(torch.float32, None)] * 2


def test_the_same_function_can_be_registered_twice():
    def identity(s):
        return s

    register_kernel('identity', family='dot')(identity)
    register_kernel('identity', family='dot')(identity)
    with pytest.raises(ValueError, match="must be new, got 'identity', which is"):
        register_kernel('identity', family='dot')(lambda s: s)


@pytest.mark.parametrize('name', ['polynomial', 'l1', 'arc-cosine'])
def test_built_in_names_cannot_be_registered_again(name):
    before = registry.KERNELS[name]
    with pytest.raises(ValueError, match=f"name of a kernel must be new, got '{name}'"):
        register_kernel(name, family='dot')(lambda s: s)
    assert registry.KERNELS[name] is before


@pytest.mark.parametrize(
    ('name', 'family', 'function', 'message'),
    [
        (3, 'dot', lambda s: s, 'name of a kernel must be a string, got 3'),
        ('mine', 'radail', lambda s: s, "family must be one of.*got 'radail'; did you mean 'radial'"),
        ('mine', None, lambda s: s, 'family must be one of'),
        ('mine', 'dot', 'tanh', "kernel 'mine' must be a function, got 'tanh'"),
        ('mine', 'dot', lambda s, scale: s, "argument 'scale' of kernel 'mine' needs a default.*got none"),
        ('mine', 'dot', lambda s, scale='a': s, "needs a default.*got 'a'"),
        ('mine', 'dot', lambda s, scale=True: s, 'needs a default.*got True'),
        ('mine', 'dot', lambda s, scale=-1.0: s, r'needs a default.*got -1\.0'),
        ('mine', 'dot', lambda s, scale=0.0: s, r'a float > 0.*got 0\.0'),
        ('mine', 'dot', lambda s, *rest: s, "argument 'rest'.*got none"),
        ('mine', 'dot', lambda s, stride=1: s, "argument 'stride', which means something else in KervConv; rename it"),
        ('mine', 'dot', lambda s, weight=1.0: s, "argument 'weight'"),
        ('mine', 'dot', lambda s, x2: s, r"takes \['x2'\]: x2 and w2 go together"),
        ('mine', 'radial', lambda s, x2, w2: s, "x2 and w2 go together, in a kernel of family 'dot'"),
    ],
)
def test_invalid_kernels_are_rejected(name, family, function, message):
    with pytest.raises((ValueError, TypeError), match=message):
        register_kernel(name, family=family)(function)
    assert 'mine' not in registry.KERNELS


@pytest.mark.parametrize(
    ('name', 'function'),
    [
        ('forward', lambda s, *, forward=1.0: s * forward),
        ('type', lambda s, *, type=1.0: s * type),
        ('dims', lambda s, *, dims=1: s * dims),
    ],
)
def test_attribute_names_of_the_layer_are_rejected_as_hyperparameters(name, function):
    with pytest.raises(ValueError, match=f"argument '{name}'.*rename it"):
        register_kernel('mine', family='dot')(function)


BAD = [
    ({'degree': 0}, ValueError, 'degree must be >= 1, got 0'),
    ({'degree': -2}, ValueError, 'degree must be >= 1, got -2'),
    ({'degree': 2.5}, ValueError, r'degree must be an integer >= 1, got 2\.5 \(float\)'),
    ({'degree': 3.0}, ValueError, r'degree must be an integer >= 1, got 3\.0 \(float\)'),
    ({'degree': True}, ValueError, r'degree must be an integer >= 1, got True \(bool\)'),
    ({'degree': '3'}, ValueError, r"degree must be an integer >= 1, got '3' \(str\)"),
    ({'degree': None}, ValueError, 'degree must be an integer >= 1, got None'),
    ({'balance': -0.5}, ValueError, r'balance must be >= 0, got -0\.5'),
    ({'balance': math.nan}, ValueError, 'balance must be >= 0, got nan'),
    ({'balance': math.inf}, ValueError, 'balance must be >= 0, got inf'),
    ({'balance': '1'}, TypeError, "balance must be a number >= 0, got '1'"),
    ({'balance': True}, TypeError, 'balance must be a number >= 0, got True'),
    ({'kernel': 'gaussian', 'gamma': 0}, ValueError, 'gamma must be > 0, got 0'),
    ({'kernel': 'gaussian', 'gamma': -1.0}, ValueError, r'gamma must be > 0, got -1\.0'),
    ({'kernel': 'gaussian', 'gamma': math.nan}, ValueError, 'gamma must be > 0, got nan'),
    ({'kernel': 'gaussian', 'gamma': 'Auto'}, ValueError, r"gamma must be a number > 0, or 'auto' .* got 'Auto'"),
    ({'kernel': 'gaussian', 'gamma': None}, TypeError, 'gamma must be a number > 0, got None'),
    ({'kernel': 'rational quadratic', 'alpha': 0}, ValueError, 'alpha must be > 0, got 0'),
    ({'kernel': 'arc-cosine', 'order': 3}, ValueError, 'order of the arc-cosine kernel must be 0, 1 or 2, got 3'),
    ({'kernel': 'arc-cosine', 'order': -1}, ValueError, 'order must be >= 0, got -1'),
    ({'kernel': 'arc-cosine', 'order': 1.0}, ValueError, r'order must be an integer >= 0, got 1\.0'),
    ({'kernel': 'gausian'}, ValueError, r"'linear', 'polynomial'.*got 'gausian'; did you mean 'gaussian'\?"),
    ({'kernel': 'rbf'}, ValueError, "kernel must be one of .*'arc-cosine'.*, got 'rbf'"),
    ({'kernel': None}, ValueError, 'kernel must be one of'),
    ({'kernel': 'l2', 'learnable': True}, ValueError, "learnable=True needs .*got kernel='l2', which has none; leave"),
    ({'kernel': 'linear', 'learnable': True}, ValueError, 'learnable=True needs'),
    ({'kernel': 'arc-cosine', 'learnable': True}, ValueError, 'learnable=True needs'),
    ({'learnable': 1}, TypeError, 'learnable must be True or False, got 1'),
    ({'per_channel': True}, ValueError, 'per_channel=True needs learnable=True'),
    ({'gamma': 0.5}, ValueError, r"'polynomial' has no gamma, got gamma=0\.5; leave it out.*: degree, balance"),
    ({'kernel': 'gaussian', 'degree': 2}, ValueError, "'gaussian' has no degree, got degree=2; leave it out.*: gamma"),
    ({'kernel': 'l2', 'balance': 0.5}, ValueError, r"'l2' has no balance.*It has: none"),
    ({'kernel': 'gaussian', 'alpha': 2.0}, TypeError, "'gaussian' has no argument 'alpha'"),
    ({'balence': 2.0}, TypeError, "no argument 'balence'; did you mean 'balance'"),
    ({'chunk_mib': 0}, ValueError, 'chunk_mib must be > 0, got 0'),
    ({'balance': torch.tensor(-1.0)}, (ValueError, TypeError), 'balance'),
    ({'degree': torch.tensor(2.5)}, (ValueError, TypeError), 'degree'),
]


@pytest.mark.parametrize(('arguments', 'error', 'message'), BAD, ids=[str(a) for a, _, _ in BAD])
@pytest.mark.parametrize('layer', [KervConv1d, KervConv2d, KervConv3d])
def test_invalid_arguments_of_a_layer_raise_an_error(layer, arguments, error, message):
    with pytest.raises(error, match=message):
        layer(3, 4, 3, **arguments)


@pytest.mark.parametrize(('arguments', 'error', 'message'), BAD, ids=[str(a) for a, _, _ in BAD])
def test_invalid_arguments_of_the_function_raise_an_error(arguments, error, message):
    if {'learnable', 'per_channel'} & set(arguments) or isinstance(arguments.get('balance'), torch.Tensor):
        pytest.skip('an argument of the layer alone')
    with pytest.raises(error, match=message):
        kerv2d(torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3), **arguments)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'weight': torch.randn(4, 3, 3)}, r'weight of kerv2d must have 4 axes.*got shape \(4, 3, 3\)'),
        ({'stride': 0}, 'stride'),
        ({'padding': 'full'}, 'padding'),
        ({'padding': 'same', 'stride': 2}, 'same'),
        ({'dilation': 0}, 'dilation'),
        ({'groups': 0}, 'groups'),
        ({'padding_mode': 'zero'}, "did you mean 'zeros'"),
    ],
    ids=['weight', 'stride', 'padding', 'same', 'dilation', 'groups', 'padding_mode'],
)
def test_invalid_geometry_of_the_function_raises_an_error(arguments, message):
    settings = {'weight': torch.randn(4, 3, 3, 3), **arguments}
    with pytest.raises((ValueError, TypeError), match=message):
        kerv2d(torch.randn(1, 3, 5, 5), **settings)


def test_default_values_can_be_passed_explicitly():
    for kernel in ('linear', 'l1', 'gaussian'):
        KervConv2d(3, 4, 3, kernel=kernel, degree=3, balance=1.0, gamma='auto')
