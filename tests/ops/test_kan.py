"""KANConv2d: its contract, the notes' numbers of its bases, its plain start, what it keeps for backward."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmkerv
from mmkerv.errors import ArgumentError
from mmkerv.ops import KANConv, KANConv2d
from mmkerv.ops.core.initialisation import plain_convolutions
from mmkerv.ops.kan.bases import Basis, cardinal_spline, count, functions, gram_beta, recurrence
from mmkerv.ops.kan.lift import lift
from tests.ops import kan_oracle
from tests.ops.contract import GEOMETRIES, relative
from tests.ops.family_contracts import ResponseContract
from tests.ops.oracle import convolution

BASES = {
    'spline': {},
    'linear spline': {'degree': 1, 'grid_size': 4},
    'quadratic spline': {'degree': 2, 'grid_size': 1, 'grid_range': (-2, 3)},
    'gram': {'basis': 'gram'},
    'gram 5': {'basis': 'gram', 'degree': 5},
    'chebyshev': {'basis': 'chebyshev'},
    'legendre': {'basis': 'legendre', 'degree': 6},
    'legendre 1': {'basis': 'legendre', 'degree': 1},
    'rbf': {'basis': 'rbf'},
    'rbf 2': {'basis': 'rbf', 'grid_size': 2, 'grid_range': (0, 1)},
}
every_basis = pytest.mark.parametrize('name', BASES)


def moved(op: nn.Module) -> nn.Module:
    """The layer with functions that are not 0."""
    with torch.no_grad():
        op.basis.weight.normal_(std=0.2)
    return op


class TestKAN(ResponseContract):
    operator = KANConv2d
    # Of few functions, for the gradients of all weights take long.
    options = {'grid_size': 1, 'grid_range': (-2, 2)}

    def make(self, *args, **kwargs):
        return moved(super().make(*args, **kwargs))

    def expected(self, op, x):
        return torch.from_numpy(convolution(op, x)[0])


class TestGram(TestKAN):
    options = {'basis': 'gram', 'base_activation': 'silu'}


@every_basis
@pytest.mark.parametrize('geometry', ['mixed', 'groups', 'depthwise', 'circular'])
def test_every_basis_computes_its_definition(name, geometry):
    torch.manual_seed(0)
    op = moved(KANConv2d(4, 8, 3, **BASES[name], **GEOMETRIES[geometry], dtype=torch.float64))
    x = 1.5 * torch.randn(2, 4, 6, 5, dtype=torch.float64)
    assert relative(op(x), torch.from_numpy(convolution(op, x)[0])) < 1e-12


@every_basis
def test_gradients_of_every_basis_and_their_gradients(name):
    torch.manual_seed(0)
    op = moved(KANConv2d(2, 2, 2, **BASES[name], dtype=torch.float64))
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(op, (x,))
    if name != 'linear spline':
        # Of pieces of lines the second derivative is 0 nearly everywhere, which autograd does not know to be a zero.
        assert torch.autograd.gradgradcheck(op, (x,))


def test_second_derivatives_at_the_middle_of_a_spline():
    for degree in (2, 3, 4):
        u = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(cardinal_spline(u, degree), u, create_graph=True)
        (second,) = torch.autograd.grad(first, u)
        step = 1e-4
        a, b, c = (cardinal_spline(torch.tensor(v, dtype=torch.float64), degree) for v in (-step, 0.0, step))
        assert abs(first.item()) < 1e-12 and abs((second - (a - 2 * b + c) / step**2).item()) < 1e-3


def values(x: float, **options) -> list[float]:
    return [float(f) for f in functions(torch.tensor(x).double(), KANConv2d(1, 1, 1, **options).functions)]


def test_the_numbers_of_splines():
    assert [round(48 * v, 9) for v in values(0.0)] == [0, 0, 1, 23, 23, 1, 0, 0]
    for x in torch.linspace(-1, 1, 41).tolist():
        assert abs(sum(values(x)) - 1) < 1e-12
    assert round(sum(values(1.25)), 3) == 0.959 and round(sum(values(1.5)), 3) == 0.682
    assert set(values(2.2001)) == set(values(-2.2001)) == {0.0} and sum(values(2.19)) > 0
    assert values(float('inf')) == values(-1e30) == [0.0] * 8


def test_splines_of_the_largest_degree_keep_the_precision():
    options = {'degree': 10, 'grid_size': 20}
    x = torch.linspace(-1, 1, 401)
    total = sum(functions(x, KANConv2d(1, 1, 1, **options).functions))
    assert (total - 1).abs().max() < 1e-5
    assert KANConv2d(1, 1, 1, basis='legendre', degree=25)(torch.ones(1, 1, 1, 1)).isfinite()


def test_the_recurrence_of_gram_polynomials_is_that_of_orthogonal_ones():
    for n, m in itertools.combinations(range(1, 8), 2):
        assert gram_beta(n, m) == pytest.approx(float(kan_oracle.gram_beta(n, m)), rel=1e-12)
    assert gram_beta(1, 2) == 0.25 and round(gram_beta(2, 3), 3) == 0.148
    assert recurrence('gram', 3) == (1, gram_beta(2, 3))
    # The factors of the authors' code, with their misplaced parenthesis.
    wrong = [((m + n) * (m - n) * n**2) / (m**2 / (4 * n**2 - 1)) for n, m in ((1, 2), (2, 3))]
    assert wrong[0] == 2.25 and round(wrong[1], 1) == 33.3


def test_functions_at_zero_are_not_zero_and_do_not_depend_on_the_batch():
    for name, options in BASES.items():
        assert any(abs(v) > 0.01 for v in values(0.0, **options)), name
        x = torch.randn(3, 2, 4, 4)
        basis = KANConv2d(1, 1, 1, **options).functions
        assert torch.equal(lift(x, basis)[1:2], lift(x[1:2], basis)), name
        last = lift(x.to(memory_format=torch.channels_last), basis)
        assert torch.equal(last, lift(x, basis)) and last.is_contiguous(memory_format=torch.channels_last), name
        assert lift(x, basis).shape[1] == 2 * count(basis) and lift(100 * x, basis).abs().max() < 2, name


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_starts_as_the_plain_convolution_and_everything_learns(geometry):
    settings = {**GEOMETRIES[geometry]}
    torch.manual_seed(0)
    plain, op = nn.Conv2d(4, 8, 3, **settings), KANConv2d(4, 8, 3, **settings)
    op.load_state_dict(plain.state_dict())
    x = 2 * torch.randn(2, 4, 9, 8)
    assert op.starts_as_identity and torch.equal(op(x), plain(x))
    before = {name: p.clone() for name, p in op.named_parameters()}
    optimizer = torch.optim.SGD(op.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        op(x).square().mean().backward()
        if not step:
            plain(x).square().mean().backward()
            assert relative(op.weight.grad, plain.weight.grad) < 1e-6
        optimizer.step()
    assert [name for name, p in op.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize('degree', [1, 2, 3])
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_functions_that_are_lines_make_it_a_convolution(degree, geometry):
    """On the grid sum_j c_j B_j(x) = x, where c_j is the middle of B_j."""
    torch.manual_seed(0)
    op = KANConv2d(4, 8, 3, degree=degree, **GEOMETRIES[geometry], dtype=torch.float64)
    step, number = 2 / 5, 5 + degree
    middles = torch.tensor([-1 + (j + (1 - degree) / 2) * step for j in range(number)], dtype=torch.float64)
    slopes = torch.randn_like(op.weight)
    with torch.no_grad():
        op.basis.weight.copy_((slopes[:, :, None] * middles.view(-1, 1, 1)).flatten(1, 2))
    conv = nn.Conv2d(4, 8, 3, **GEOMETRIES[geometry], dtype=torch.float64)
    conv.load_state_dict({k: v for k, v in op.state_dict().items() if k != 'basis.weight'})
    with torch.no_grad():
        conv.weight.add_(slopes)
    x = 2 * torch.rand(2, 4, 9, 8, dtype=torch.float64) - 1
    assert relative(op(x), conv(x)) < 1e-12


def test_zeros_are_padded_to_the_lifted_maps_and_show_at_the_border():
    op = KANConv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        op.weight.zero_()
        op.basis.weight.fill_(1)
    # The functions add up to 1 at every tap inside the image.
    y = op(torch.zeros(1, 1, 5, 5))[0, 0]
    expected = F.conv2d(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3), padding=1)[0, 0]
    assert relative(y, expected) < 1e-6 and y[0, 0] < y[2, 2]
    op.padding_mode = 'replicate'
    assert relative(op(torch.zeros(1, 1, 5, 5)), torch.full((1, 1, 5, 5), 9.0)) < 1e-6


def test_parameters_of_the_authors_layers():
    """Theirs have besides 4 factors of the recurrence and, in the norm, 64 parameters."""
    spline, gram = KANConv2d(64, 64, 3, bias=False), KANConv2d(16, 32, 3, basis='gram', bias=False)
    assert sum(p.numel() for p in spline.parameters()) == 9 * spline.weight.numel()
    assert sum(p.numel() for p in gram.parameters()) == 23108 - 4 - 64


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_only_the_input_and_the_lifted_maps_are_kept_for_backward(dtype):
    x = torch.randn(2, 16, 12, 12, dtype=dtype, requires_grad=True)
    for options in BASES.values():
        op, kept = moved(KANConv2d(16, 8, 3, padding=1, **options, dtype=dtype)), {}

        def note(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            op(x)
        weights = sum(p.numel() for p in op.parameters())
        assert sum(kept.values()) <= (x.numel() * (1 + count(op.functions)) + weights) * dtype.itemsize


def test_the_functions_are_computed_in_float32_of_half_precision():
    x = torch.linspace(-3, 3, 64).view(1, 1, 8, 8).to(torch.bfloat16)
    for options in BASES.values():
        basis = KANConv2d(1, 1, 1, **options).functions
        assert torch.equal(lift(x, basis), lift(x.float(), basis).to(torch.bfloat16))
    with torch.autocast('cpu', torch.bfloat16):
        assert lift(x.float(), basis).dtype == torch.bfloat16 and lift(x.double(), basis).dtype == torch.float64


def test_other_types_than_the_layers_are_refused():
    for x in (torch.randn(1, 3, 5, 5).double(), torch.zeros(1, 3, 5, 5, dtype=torch.uint8)):
        for options in ({}, {'base_activation': 'silu'}):
            with pytest.raises((RuntimeError, NotImplementedError)):
                KANConv2d(3, 4, 3, **options)(x)


def test_with_a_base_activation_both_branches_start_at_a_like_scale():
    """In the authors' code the branch of Gram polynomials starts at a tenth of the base branch."""
    torch.manual_seed(0)
    x = torch.randn(4, 64, 16, 16)
    for name in ('spline', 'gram', 'chebyshev', 'legendre', 'rbf'):
        op = KANConv2d(64, 64, 3, basis=name, base_activation='silu', bias=False)
        assert not op.starts_as_identity
        whole, base = op(x), F.conv2d(F.silu(x), op.weight)
        ratio = ((whole - base).std() / base.std()).item()
        assert 0.3 < ratio < 2, (name, ratio)


def test_libraries_that_draw_every_matrix_leave_the_functions_at_zero():
    net = nn.Sequential(KANConv2d(3, 8, 3))
    with plain_convolutions(net):
        for parameter in net.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
    assert not net[0].basis.weight.any() and net[0].weight.any()


def test_a_converted_network_starts_with_its_outputs():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 9, 9)
    expected = net(x)
    mmkerv.convert(net, {'type': 'KANConv', 'basis': 'gram'}, {'kernel_sizes': 'all'})
    assert [type(m).__name__ for m in net[::2]] == ['KANConv2d'] * 3 and torch.equal(net(x), expected)


def test_wide_depthwise_layers():
    torch.manual_seed(0)
    op, x = moved(KANConv2d(3, 3, 17, padding=8, groups=3)), torch.randn(1, 3, 20, 20)
    maps = lift(x, op.functions)
    expected = F.conv2d(x, op.weight, op.bias, padding=8, groups=3)
    expected = expected + F.conv2d(maps, op.basis.weight, padding=8, groups=3)
    assert relative(op(x), expected) < 1e-5
    with torch.no_grad():
        assert relative(op(x), expected) < 1e-5


def test_curves_are_the_responses_of_the_layer():
    torch.manual_seed(0)
    for options in ({}, {'basis': 'gram', 'base_activation': 'silu'}):
        op = moved(KANConv2d(4, 6, 3, groups=2, bias=False, **options))
        x, outputs, inputs = torch.linspace(-2, 2, 5), torch.tensor([1, 5]), torch.tensor([1, 0])
        curves = op.curves(x, outputs, inputs)
        nothing = op(torch.zeros(1, 4, 3, 3))
        for f, g, a, b, p in itertools.product(range(2), range(2), range(3), range(3), range(5)):
            image = torch.zeros(1, 4, 3, 3)
            image[0, int(outputs[f]) // 3 * 2 + int(inputs[g]), a, b] = x[p]
            change = (op(image) - nothing)[0, outputs[f], 0, 0]
            assert abs(float(curves[f, g, a, b, p] - curves[f, g, a, b, 2] - change)) < 1e-5


def test_the_config_class_takes_every_layer():
    assert type(KANConv(3, 8, 1)) is KANConv2d and type(KANConv(8, 8, 3, groups=8, basis='rbf')) is KANConv2d
    with pytest.raises(TypeError, match='did you mean'):
        KANConv(3, 8, 3, bases='gram')
    text = repr(KANConv2d(3, 8, 3, grid_range=[-2, 2], degree=2))
    assert 'degree=2, grid_range=(-2.0, 2.0)' in text and 'BasisWeights' in text
    assert KANConv2d(3, 8, 3, degree=2).functions == Basis('spline', 2, 5, -1.0, 1.0)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'basis': 'rbf', 'degree': 3}, "basis='rbf' has no degree.* leave degree out"),
        ({'degree': 11}, "degree must be <= 10 with basis='spline'.*, got 11; take a lower one"),
        ({'basis': 'gram', 'grid_size': 5}, "basis='gram' has no grid, got grid_size=5; leave grid_size out"),
        ({'basis': 'chebyshev', 'grid_range': (-1, 1)}, 'leave grid_range out'),
        ({'basis': 'rbf', 'grid_size': 1}, 'grid_size must be >= 2'),
        ({'grid_range': (1, -1)}, r'grid_range must be the lowest and the highest point .* use such as \(-1, 1\)'),
        ({'basis': 'legandre'}, "did you mean 'legendre'"),
    ],
    ids=['degree', 'high degree', 'size', 'range', 'one', 'order', 'name'],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        KANConv2d(3, 8, 3, **options)
