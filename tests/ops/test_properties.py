"""Random operators, inputs and surroundings against the naive oracles: never a silent wrong number.

Quick: 320 cases, always the same. Long (``-m long``): 5,200, or ``MMKERV_CASES``; ``MMKERV_SEED`` draws others.
"""

import copy
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

hypothesis = pytest.importorskip('hypothesis')
from hypothesis import HealthCheck, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mmkerv.models.placement import convert  # noqa: E402
from mmkerv.ops import frozen_kernels, switch_to_deploy  # noqa: E402
from tests.ops.cases import ANYTHING, Case, cases, randomise, wrong_values  # noqa: E402
from tests.ops.catalogue import CATALOGUE, LAYERS  # noqa: E402
from tests.ops.oracle import naive  # noqa: E402

QUICK, LONG = 320, int(os.environ.get('MMKERV_CASES', 5200))
CASES = [pytest.param(QUICK, id='quick'), pytest.param(LONG, id='long', marks=pytest.mark.long)]
# Rounding, relative to the magnitudes added up. Kervolutions of half parameters compute in float32.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
OUTPUT = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: 2**-7, torch.float16: 2**-10}
# Sub-normal numbers of float16 have few digits.
SMALLEST = {torch.float16: 1e-6}
REFUSALS = (ValueError, TypeError)
# The classes that compute the inner product in the type of autocast or of their parameters.
KINKS = ('l1', 'manhattan', 'arc-cosine')


@pytest.fixture(autouse=True)
def one_thread_and_no_warnings():
    """Torch warns of the copy that 'same' padding of even kernels takes."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def run(function: Callable, strategies: tuple, share: float, record_property: Callable) -> None:
    """Try ``share`` cases of ``function``, which returns how it ended if nothing was compared."""
    counts = Counter()

    def counted(drawn) -> None:
        counts['cases'] += 1
        counts[function(*drawn) or 'compared'] += 1

    chosen = os.environ.get('MMKERV_SEED')
    test = given(st.tuples(*strategies))(counted)
    test = settings(
        max_examples=round(share),
        derandomize=chosen is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(test)
    try:
        (test if chosen is None else seed(int(chosen))(test))()
    finally:
        for what, count in counts.items():
            record_property(what, count)


def check(actual: Tensor, expected: np.ndarray, allowed: np.ndarray, what: str) -> None:
    assert actual.shape == expected.shape, what
    values = actual.detach().double().numpy()
    assert np.isfinite(values).all(), f'{what}: not finite'
    over = np.abs(values - expected) - allowed
    worst = np.unravel_index(over.argmax(), over.shape) if over.size else ()
    message = f'{what}: at {worst} {values[worst]} for {expected[worst]}, off by more than {allowed[worst]}'
    assert (over <= 0).all(), message


def tolerances(op: nn.Module, dtype: torch.dtype) -> tuple[float, float]:
    """Allowed rounding of the sums, and of the result."""
    in_float32 = getattr(op, 'kernel_name', None) in (
        'l1',
        'l2',
        'manhattan',
        'euclidean',
        'arc-cosine',
    )
    return ROUNDING[torch.float32 if in_float32 and dtype in (torch.bfloat16, torch.float16) else dtype], OUTPUT[dtype]


def raises_like_plain(case: Case) -> bool:
    """Return ``True`` if torch's convolution refuses the input."""
    if case.arguments.get('causal'):
        return False
    try:
        with torch.no_grad():
            case.plain()(case.input().double())
    except (RuntimeError, ValueError):
        return True
    return False


def forms(op: nn.Module, x: Tensor, form: str) -> Tensor:
    """The response of an operator in some surrounding that must not change it."""
    if form == 'frozen':
        model = nn.Sequential(op).eval()
        with frozen_kernels(model), torch.no_grad():
            model(x)
            return model(x)
    if form == 'state dict':
        other = nn.Sequential(copy.deepcopy(op))
        randomise(other)
        stream = io.BytesIO()
        torch.save(nn.Sequential(op).state_dict(), stream)
        stream.seek(0)
        other.load_state_dict(torch.load(stream, weights_only=True))
        return other(x)
    if form == 'channels last' and x.dim() == 4 and op.dims == 2:
        return copy.deepcopy(op).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    if form == 'not contiguous':
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
        wide[..., ::2] = x
        return op(wide[..., ::2])
    if form == 'folded':
        model = nn.Sequential(copy.deepcopy(op))
        switch_to_deploy(model)
        return model(x)
    if form == 'no grad':
        with torch.no_grad():
            return op(x)
    return op(x)


COMPARED = [name for name, operator in CATALOGUE.items() if operator.random]
FORMS = ['plain', 'frozen', 'state dict', 'channels last', 'not contiguous', 'folded', 'no grad']


@pytest.mark.parametrize('name', COMPARED)
@pytest.mark.parametrize('number', CASES)
def test_an_operator_computes_its_definition_or_refuses(name, number, record_property):
    def one(case: Case, form: str) -> str | None:
        op, x = case.build(), case.input()
        if raises_like_plain(case) and case.resolution == 1:
            with pytest.raises((ValueError, RuntimeError)):
                forms(op, x, form)
            return 'refused'
        rounding, output = tolerances(op, case.dtype)
        try:
            y = forms(op, x, form)
        except (ValueError, RuntimeError) as error:
            # A finer kernel may be too large for a map that holds the trained one; a strided sequence too short.
            assert case.resolution != 1 or 'at least as long' in str(error), error
            return 'refused'
        assert y.dtype == case.dtype
        expected, allowed = naive(op, x, rounding, output)
        check(y, expected, allowed + SMALLEST.get(case.dtype, 0), form)

    run(one, (cases(name), st.sampled_from(FORMS)), number * 0.55 / len(LAYERS), record_property)


@pytest.mark.parametrize('name', COMPARED)
@pytest.mark.parametrize('number', CASES)
def test_gradients_equal_difference_quotients(name, number, record_property):
    """The directional derivative by autograd against the difference quotient, in float64."""

    def one(case: Case) -> str | None:
        case = case._replace(dtype=torch.float64, content='normal', shape=tuple(max(s, 1) for s in case.shape))
        if raises_like_plain(case) or case.arguments.get('kernel') in KINKS:
            return 'left out'
        op, x = case.build(), case.input().requires_grad_()
        try:
            y = op(x)
        except (ValueError, RuntimeError):
            return 'refused'
        generator = torch.Generator().manual_seed(case.seed)
        seen = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        values = [x, *op.parameters()]
        directions = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in values]
        grads = torch.autograd.grad((y * seen).sum(), values, allow_unused=True)
        slope = sum(float((g * d).sum()) for g, d in zip(grads, directions) if g is not None)
        size = sum(float((g * d).abs().sum()) for g, d in zip(grads, directions) if g is not None)
        ends, step = [], 1e-6
        with torch.no_grad():
            for side in (step, -2 * step):
                for v, d in zip(values, directions):
                    v += side * d
                ends.append(float((op(x) * seen).sum()))
        quotient = (ends[0] - ends[1]) / (2 * step)
        level = 1e-9 * float((y * seen).abs().sum()) / step
        assert abs(quotient - slope) <= 1e-4 * size + 1e-3 * level + 1e-6, f'{slope} is not {quotient}'

    run(one, (cases(name),), number * 0.15 / len(LAYERS), record_property)


@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('number', CASES)
def test_wrong_arguments_are_refused(name, number, record_property):
    wrong = wrong_values(name)

    def one(case: Case, data: st.DataObject) -> str | None:
        argument = data.draw(st.sampled_from(sorted(wrong)))
        value = data.draw(st.sampled_from(wrong[argument]))
        if argument == 'per_channel' and value is True and case.arguments.get('learnable'):
            return 'left out'
        # Only a kernel with a mask can be cropped.
        if (argument, value) == ('crop', 0.1) and case.arguments.get('mask'):
            return 'left out'
        with pytest.raises(REFUSALS):
            LAYERS[name](**{**case.arguments, argument: value})
        return 'refused'

    run(one, (cases(name), st.data()), number * 0.1 / len(LAYERS), record_property)


@pytest.mark.parametrize('name', COMPARED)
@pytest.mark.parametrize('number', CASES)
def test_any_arguments_are_refused_or_right(name, number, record_property):
    wrong = wrong_values(name)

    def one(case: Case, data: st.DataObject) -> str | None:
        changed = data.draw(st.dictionaries(st.sampled_from(sorted(wrong)), ANYTHING, min_size=1, max_size=3))
        case = case._replace(arguments={**case.arguments, **changed}, dtype=torch.float64, resolution=1.0)
        try:
            op = case.build()
        except REFUSALS:
            return 'refused'
        x = torch.randn(2, op.in_channels, *case.shape[-op.dims :], dtype=torch.float64)
        try:
            y = op(x)
        except (ValueError, RuntimeError):
            return 'refused'
        expected, allowed = naive(op, x, *tolerances(op, torch.float64))
        check(y, expected, allowed, str(changed))

    run(one, (cases(name), st.data()), number * 0.1 / len(LAYERS), record_property)


NESTED = [name for name, operator in CATALOGUE.items() if operator.layer.dims == 2 and operator.channels == 'any']
ACTIVATIONS = {'relu': nn.ReLU, 'tanh': nn.Tanh, 'identity': nn.Identity}


@st.composite
def nested(draw: st.DrawFn, name: str) -> tuple:
    """A plain network of convolutions, activations and Sequentials, and an operator to convert it with."""
    operator = draw(cases(name))
    first = draw(st.integers(1, 3))
    channels, layers = first, []
    for _ in range(draw(st.integers(1, 3))):
        groups = draw(st.sampled_from([1, channels]))
        out = groups * draw(st.integers(1, 3)) if channels * 3 <= 9 or groups == 1 else channels
        size = draw(st.sampled_from([1, 3, 3, (3, 1), (1, 5)]))
        padding = size // 2 if isinstance(size, int) else tuple(s // 2 for s in size)
        stride, bias = draw(st.sampled_from([1, 1, 2])), draw(st.booleans())
        layers.append((channels, out, size, stride, padding, groups, bias, draw(st.sampled_from(sorted(ACTIVATIONS)))))
        channels = out
    names = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups', 'bias')
    own = {k: v for k, v in operator.arguments.items() if k not in (*names, 'padding_mode')}
    return {'type': name, **own}, first, layers, draw(st.integers(0, 999))


def network(first: int, layers: list) -> nn.Module:
    convolutions = [
        nn.Sequential(nn.Conv2d(i, o, k, s, p, 1, g, b, dtype=torch.float64), ACTIVATIONS[a]())
        for i, o, k, s, p, g, b, a in layers
    ]
    return nn.Sequential(nn.Identity(), nn.Sequential(*convolutions))


def by_oracle(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.Sequential):
        for child in module:
            x = by_oracle(child, x)
        return x
    return torch.from_numpy(naive(module, x, 0, 0)[0]) if hasattr(module, 'kernel_size') else module(x)


@pytest.mark.parametrize('name', NESTED)
@pytest.mark.parametrize('number', CASES)
def test_a_network_converts_folds_and_is_read_back(name, number, record_property):
    def one(drawn: tuple) -> str | None:
        cfg, first, layers, number = drawn
        torch.manual_seed(number)
        model, again = network(first, layers), network(first, layers)
        try:
            for built in (model, again):
                convert(built, dict(cfg), dict(kernel_sizes='all'))
        except REFUSALS as error:
            # Options and sizes of kernel are drawn apart, and 1x1 convolutions may be all there is.
            assert any(word in str(error) for word in ("method='fft'", 'more than one element', 'no convolution')), (
                error
            )
            return 'refused'
        randomise(model)
        x = torch.randn(2, first, 6, 5, dtype=torch.float64)
        expected = by_oracle(model, x)
        scale = float(expected.abs().max()) + 1
        again.load_state_dict(model.state_dict())
        folded = copy.deepcopy(model)
        report = switch_to_deploy(folded)
        plain_again = copy.deepcopy(folded)
        randomise(plain_again)
        plain_again.load_state_dict(folded.state_dict())
        with frozen_kernels(model.eval()), torch.no_grad():
            frozen = model(x)
        assert set(report.replaced).isdisjoint(report.kept)
        results = {'itself': model(x), 'read back': again(x), 'folded': folded(x), 'frozen': frozen}
        for what, y in {**results, 'folded and read back': plain_again(x)}.items():
            check(y, expected.numpy(), np.full(expected.shape, 1e-7 * scale), what)

    run(one, (nested(name),), number * 0.1 / len(NESTED), record_property)


@pytest.mark.parametrize('dtype', ROUNDING, ids=str)
def test_the_suite_detects_a_wrong_number(dtype):
    """One tap of the kernel that is off by a few times the rounding."""
    case = Case('CoCConv', {'in_channels': 2, 'out_channels': 3, 'kernel_size': 3}, (1, 2, 5, 5), 'normal', 1, dtype)
    op, x = case.build(), case.input()
    y, rounding = op(x), tolerances(op, dtype)
    check(y, *naive(op, x, *rounding), 'right')
    with torch.no_grad():
        op.weight[0, 0, 1, 1] += 200 * sum(rounding) * op.weight.abs().max()
    with pytest.raises(AssertionError, match='off by'):
        check(op(x), *naive(case.build(), x, *rounding), 'wrong')
