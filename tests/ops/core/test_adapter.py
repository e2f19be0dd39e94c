"""Orthogonal adapters: the rotation itself, on plain convolutions and under operators."""

import copy
import math

import pytest
import torch
from torch import nn

from mmkerv.errors import ArgumentError
from mmkerv.ops import CoCConv2d, FDConv2d, KervConv2d, WeightedConv2d, frozen_kernels, switch_to_deploy
from mmkerv.ops.core.adapter import OrthogonalAdapter, adapter_of, attach, cayley, merge, rotated, skew_matrix
from mmkerv.ops.core.initialisation import plain_convolutions
from tests.ops.contract import GEOMETRIES, relative

KIND = pytest.mark.parametrize('kind', ['oft', 'one factor', 'boft'])


def options(kind: str, length: int) -> dict:
    """Return the arguments of an adapter for filters of some length."""
    if kind == 'boft' and length % 4 == 0:
        return dict(kind='boft', block_size=2, factors=2)
    return dict(kind='oft' if kind == 'oft' else 'boft', block_size=6 if length % 6 == 0 else 3)


def adapted(layer: nn.Module, std: float = 0.5, **options) -> nn.Module:
    """Return the layer with an adapter that is not at its start."""
    attach(layer, OrthogonalAdapter(layer.weight, layer.groups, **options))
    for parameter in adapter_of(layer).parameters():
        nn.init.normal_(parameter, std=std)
    return layer


def by_loops(adapter: OrthogonalAdapter, kernel: torch.Tensor) -> torch.Tensor:
    """Compute diag(1 + a) W R^T with dense matrices of each factor, and each block by the inverse."""
    size, groups = adapter.block_size, adapter.groups
    flat = kernel.reshape(groups, len(kernel) // groups, -1).clone()
    length = flat.shape[2]
    for level in range(adapter.factors):
        for group in range(groups):
            dense = torch.zeros(length, length, dtype=kernel.dtype)
            half, distance = size // 2, 2**level * (size // 2)
            for block in range(length // size):
                upper = torch.zeros(size, size, dtype=kernel.dtype)
                numbers = iter(adapter.skew[level, group * (length // size) + block].tolist())
                for i in range(size):
                    for j in range(i + 1, size):
                        upper[i, j] = next(numbers)
                skew, eye = upper - upper.T, torch.eye(size, dtype=kernel.dtype)
                turn = (eye - skew) @ torch.linalg.inv(eye + skew)
                if level == 0:
                    places = [block * size + i for i in range(size)]
                else:
                    # The block-th pair of halves that lie `distance` apart.
                    start = block // 2**level * 2 * distance + block % 2**level * half
                    places = [start + i for i in range(half)] + [start + distance + i for i in range(half)]
                for i, row in enumerate(places):
                    for j, column in enumerate(places):
                        dense[row, column] = turn[i, j]
            flat[group] = flat[group] @ dense.T
    flat = flat.reshape(kernel.shape)
    return flat if adapter.gain is None else flat * (1 + adapter.gain).reshape(-1, 1, 1, 1)


def grams(kernel: torch.Tensor, groups: int) -> torch.Tensor:
    flat = kernel.reshape(groups, len(kernel) // groups, -1)
    return flat @ flat.transpose(1, 2)


def test_the_published_rotation():
    rotation = cayley(skew_matrix(torch.tensor([0.1, 0.2, 0.3, -0.1, 0.05, 0.4], dtype=torch.float64), 4))
    expected = torch.tensor([0.786667, -0.144762, -0.502857, -0.327619], dtype=torch.float64)
    assert torch.allclose(rotation[0], expected, atol=5e-7)
    assert math.isclose(float(torch.linalg.det(rotation)), 1)
    assert torch.allclose(rotation @ rotation.T, torch.eye(4, dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize('size', [2, 3, 8])
def test_the_inverse_exists_for_large_numbers(size):
    rotations = cayley(skew_matrix(1e3 * torch.randn(5, size * (size - 1) // 2, dtype=torch.float64), size))
    assert relative(rotations @ rotations.transpose(1, 2), torch.eye(size).expand(5, -1, -1)) < 1e-9


@KIND
@pytest.mark.parametrize('groups', [1, 2, 4])
def test_the_kernel_is_that_of_dense_matrices(kind, groups):
    conv = nn.Conv2d(8, 8, 3, groups=groups).double()
    weight = conv.weight.detach().clone()
    adapter = adapter_of(adapted(conv, **options(kind, 72 // groups)))
    assert relative(conv.weight, by_loops(adapter, weight)) < 1e-12
    assert relative(conv.weight, weight) > 0.1


@pytest.mark.parametrize('factors', [2, 3, 4])
def test_every_level_of_the_butterfly_is_that_of_dense_matrices(factors):
    conv = nn.Conv2d(16, 4, 1).double()
    weight = conv.weight.detach().clone()
    adapter = adapter_of(adapted(conv, kind='boft', block_size=2, factors=factors))
    assert relative(conv.weight, by_loops(adapter, weight)) < 1e-12
    # An element reaches as many as there are, with log2(D / b) + 1 factors.
    turned = rotated(torch.eye(16, dtype=torch.float64)[..., None, None], adapter.rotations())[..., 0, 0]
    assert ((turned.abs() > 1e-12).sum(1) == 2**factors).all()
    assert relative(turned @ turned.T, torch.eye(16)) < 1e-12


@KIND
@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('operator', [nn.Conv2d, CoCConv2d], ids=lambda operator: operator.__name__)
def test_the_start_is_exact_and_the_fold_too(kind, geometry, operator):
    settings = GEOMETRIES[geometry]
    groups = settings.get('groups', 1)
    model = nn.Sequential(operator(4, 8, 3, **settings)).double()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    plain, weight = model(x), model[0].weight.detach().clone()
    attach(model[0], OrthogonalAdapter(weight, groups, **options(kind, 36 // groups)))
    assert torch.equal(model(x), plain)
    for parameter in model[0].parametrizations.weight[0].parameters():
        nn.init.normal_(parameter, std=0.5)
    turned = model(x)
    assert relative(turned, plain) > 0.05
    if kind == 'oft':
        assert relative(grams(model[0].weight, groups), grams(weight, groups)) < 1e-12
        assert relative(model[0].weight.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1)) < 1e-12
    report = switch_to_deploy(model)
    assert report == (['0'], {})
    assert type(model[0]) is nn.Conv2d and next(iter(model.state_dict())) == '0.weight'
    assert relative(model(x), turned) < 1e-12


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_start_is_exact_in_every_type(dtype):
    kernel = torch.randn(8, 4, 3, 3).to(dtype)
    for kind in ('oft', 'boft'):
        adapter = OrthogonalAdapter(kernel, 1, **options(kind, 36))
        assert adapter(kernel).dtype == dtype and torch.equal(adapter(kernel), kernel)
        with torch.autocast('cpu', torch.bfloat16):
            assert torch.equal(adapter(kernel), kernel)


def test_rounded_products_leave_the_start_exact(monkeypatch):
    einsum = torch.einsum
    monkeypatch.setattr(torch, 'einsum', lambda text, *x: einsum(text, *(t.bfloat16() for t in x)).float())
    kernel = torch.randn(8, 4, 3, 3)
    assert torch.equal(OrthogonalAdapter(kernel, 1, 'oft', 6)(kernel), kernel)


@KIND
def test_gradients(kind):
    kernel = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    adapter = OrthogonalAdapter(kernel, 1, **options(kind, 36))
    names = [name for name, _ in adapter.named_parameters()]

    def function(kernel, *values):
        return torch.func.functional_call(adapter, dict(zip(names, values)), (kernel,))

    values = [torch.randn_like(p, requires_grad=True) for p in adapter.parameters()]
    assert torch.autograd.gradcheck(function, (kernel, *values))


def test_everything_learns_from_the_start():
    conv = nn.Conv2d(4, 8, 3)
    attach(conv, OrthogonalAdapter(conv.weight, 1, 'boft', 6, factors=2))
    conv(torch.randn(2, 4, 5, 5)).square().sum().backward()
    adapter = adapter_of(conv)
    assert adapter.gain.grad.abs().min() > 0 and (adapter.skew.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_memory_layout_of_the_weight_is_kept():
    conv = adapted(nn.Conv2d(4, 8, 3), kind='oft', block_size=6).to(memory_format=torch.channels_last)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last) and not conv.weight.is_contiguous()


@pytest.mark.parametrize(
    'layer',
    [
        lambda: KervConv2d(4, 8, 3, degree=3),
        lambda: FDConv2d(32, 8, 3),
        lambda: WeightedConv2d(4, 8, 3, density=0.5),
        lambda: nn.Conv2d(4, 8, 3),
    ],
    ids=['kept: response', 'kept: dynamic', 'folds', 'plain'],
)
def test_an_adapter_merges_into_the_same_layer(layer):
    op = layer().double().eval()
    kind, keys = type(op), list(op.state_dict())
    x = torch.randn(2, op.in_channels, 7, 7, dtype=torch.float64)
    before = adapted(op, kind='oft', block_size=6)(x)
    merge(op)
    assert type(op) is kind and list(op.state_dict()) == keys and not op._load_state_dict_pre_hooks
    assert relative(op(x), before) < 1e-12


def test_folding_a_copy_leaves_the_original_alone():
    model = nn.Sequential(adapted(CoCConv2d(4, 8, 3), kind='oft', block_size=6), nn.ReLU())
    model.append(adapted(nn.Conv2d(8, 8, 3), kind='boft', block_size=4, factors=1))
    x = torch.randn(1, 4, 9, 9)
    expected = model(x)
    folded, other = copy.deepcopy(model), copy.deepcopy(model)
    switch_to_deploy(folded)
    assert relative(folded(x), expected) < 1e-5
    assert torch.equal(model(x), expected) and torch.equal(other(x), expected)
    with torch.no_grad():
        adapter_of(other[0]).skew.zero_()
    assert torch.equal(model(x), expected)
    assert torch.equal(copy.deepcopy(model).requires_grad_(False)(x), expected)


def test_a_kept_operator_is_merged_and_named():
    model = nn.Sequential(adapted(KervConv2d(4, 8, 3, degree=3), kind='oft', block_size=6))
    report = switch_to_deploy(model)
    assert list(report.kept) == ['0'] and not report.replaced and type(model[0]) is KervConv2d


def test_another_parametrization_is_not_lost():
    model = nn.Sequential(adapted(nn.Conv2d(4, 8, 3), kind='oft', block_size=6))
    torch.nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(ArgumentError, match='0 has other parametrizations beside its orthogonal adapter'):
        switch_to_deploy(model)
    assert adapter_of(model[0]) is not None


def test_frozen_kernels_refuse_training_through_an_adapter():
    op = adapted(CoCConv2d(4, 8, 3), kind='oft', block_size=6)
    for name, parameter in op.named_parameters():
        parameter.requires_grad_('skew' in name)
    with frozen_kernels(nn.Sequential(op)), pytest.raises(RuntimeError, match='trained inside frozen_kernels'):
        op(torch.randn(1, 4, 5, 5))


@pytest.mark.parametrize('operator', [nn.Conv2d, CoCConv2d, WeightedConv2d], ids=lambda operator: operator.__name__)
def test_plain_weights_load_under_the_adapter(operator):
    plain = nn.Conv2d(4, 8, 3)
    op = operator(4, 8, 3)
    attach(op, OrthogonalAdapter(op.weight, 1, 'oft', 6))
    model = nn.Sequential(op)
    model.load_state_dict({f'0.{name}': value for name, value in plain.state_dict().items()})
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(op.weight, plain.weight) and torch.equal(op.bias, plain.bias)
    assert torch.equal(model(x), plain(x))
    other = copy.deepcopy(model)
    nn.init.normal_(adapter_of(op).skew)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x)) and not torch.equal(model(x), plain(x))
    model.load_state_dict({'0.weight': plain.weight, '0.bias': plain.bias}, assign=True)
    assert torch.equal(other(x), model(x))
    with pytest.raises(RuntimeError, match=r'Missing key.*0\.parametrizations\.weight\.original'):
        model.load_state_dict({'0.bias': plain.bias})


def test_an_operator_s_own_weights_load_under_the_adapter():
    trained = CoCConv2d(4, 8, 3, super_init='kaiming')
    op = CoCConv2d(4, 8, 3)
    attach(op, OrthogonalAdapter(op.weight, 1, 'oft', 6))
    assert list(op.own_parameters()) == ['super_layers.0.weight']
    op.load_state_dict(trained.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(op(x), trained(x))


def test_distributed_training_gives_the_adapters_the_same_gradients(tmp_path):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip('torch has no distributed package')
    model = nn.Sequential(adapted(CoCConv2d(4, 8, 3), kind='oft', block_size=6))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_('skew' in name)
    plain, x = copy.deepcopy(model), torch.randn(2, 4, 7, 7)
    distributed.init_process_group('gloo', init_method=(tmp_path / 'store').as_uri(), rank=0, world_size=1)
    try:
        for net in (nn.parallel.DistributedDataParallel(model), plain):
            net(x).square().sum().backward()
    finally:
        distributed.destroy_process_group()
    assert torch.equal(adapter_of(model[0]).skew.grad, adapter_of(plain[0]).skew.grad)
    assert adapter_of(model[0]).skew.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', ['oft', 'boft'])
def test_gradients_of_each_sample(kind):
    conv = adapted(nn.Conv2d(4, 8, 3).double(), **options(kind, 36))
    parameters = {name: value.detach() for name, value in conv.named_parameters()}
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)

    def loss(parameters, sample):
        return torch.func.functional_call(conv, parameters, (sample[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    conv(x).square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert relative(each[name].sum(0), parameter.grad) < 1e-12, name


def test_adapters_of_a_model_without_values_get_them_from_a_checkpoint():
    conv = adapted(nn.Conv2d(4, 8, 3), kind='boft', block_size=6, factors=1)
    with torch.device('meta'):
        empty = nn.Conv2d(4, 8, 3)
        attach(empty, OrthogonalAdapter(empty.weight, 1, 'boft', 6))
    empty.to_empty(device='cpu').load_state_dict(conv.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(empty(x), conv(x))


def test_initialisers_of_all_parameters_leave_the_start_exact():
    """As those of mmdet's DynamicMaskHead and mmseg's KernelUpdateHead."""
    model = nn.Sequential(nn.Conv2d(8, 8, 3))
    attach(model[0], OrthogonalAdapter(model[0].weight, 1, **options('oft', 72)))
    with plain_convolutions(model):
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
    assert not adapter_of(model[0]).skew.any()
