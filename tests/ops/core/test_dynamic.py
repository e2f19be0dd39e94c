"""Operators with a kernel for each image: what they keep for backward, and the two forms of their exported graphs."""

import copy
import gc
import re

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmkerv.errors import ArgumentError
from mmkerv.ops import CondConv2d, FDConv2d
from mmkerv.ops.core.dynamic import exported_as
from tests.ops.contract import relative
from tests.ops.test_condconv import ODCONV
from tests.ops.test_fdconv import moved

OPERATORS = {
    'conditional': (CondConv2d, {}),
    'omni-dimensional': (CondConv2d, ODCONV),
    'filters alone': (CondConv2d, {'kernel': False, 'filter': True, 'bias': False}),
    'grouped': (CondConv2d, {'experts': 2, 'spatial': True, 'groups': 2, 'padding_mode': 'reflect'}),
    'frequency': (FDConv2d, {'kernel_num': 4}),
    'frequency grouped': (FDConv2d, {'kernel_num': 4, 'groups': 2, 'stride': 2}),
    'frequency batch norm': (FDConv2d, {'kernel_num': 4, 'gate_norm': 'bn'}),
    'frequency local': (FDConv2d, {'ksm_global': False}),
    'feature bands': (FDConv2d, {'ksm_global': False, 'ksm_local': False}),
}


def build(name: str, width: int = 8, **changes) -> nn.Module:
    kind, options = OPERATORS[name]
    torch.manual_seed(0)
    return moved(kind(width, width, 3, padding=1, **{**options, **changes}))


def step(op: nn.Module, x: torch.Tensor, dtype: torch.dtype | None) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
        y = op(x)
    y.float().square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in op.parameters()), *op.buffers()]


@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', OPERATORS)
def test_what_is_computed_again_is_the_same(name, dtype, monkeypatch):
    """In every way of saving less; buffers, the statistics of a batch norm, are updated once."""
    x = torch.randn(3, 8, 7, 6)
    again, once = step(build(name, recompute=True), x, dtype), step(build(name), x, dtype)
    kind, _ = OPERATORS[name]
    monkeypatch.setattr(kind, '_makes_large_tensors', lambda op: False)
    expected = step(build(name), x, dtype)
    for found in (again, once):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Created(TorchDispatchMode):
    """Follows every storage that an operation creates, and not views of those given."""

    def __init__(self, given: list[torch.Tensor]):
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for tensor in given}
        self.storages = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.given:
                    self.storages.append((storage._cdata, storage.nbytes(), StorageWeakRef(storage)))
        return result

    def alive(self) -> int:
        gc.collect()
        return sum({key: size for key, size, reference in self.storages if not reference.expired()}.values())


def kept(op: nn.Module) -> float:
    """Bytes that live between forward and backward, in kernels of all samples."""
    x = torch.randn(3, op.in_channels, 3, 3)
    with Created([x, *op.parameters()]) as created:
        y = op(x)
    live = created.alive() - y.untyped_storage().nbytes()
    return live / (len(x) * op.weight.untyped_storage().nbytes())


@pytest.mark.parametrize('name', ['conditional', 'omni-dimensional', 'frequency', 'frequency local'])
def test_the_kernels_are_kept_once_or_not_at_all(name, monkeypatch):
    assert 1 <= kept(build(name, 64)) < 1.1 and kept(build(name, 64, recompute=True)) < 0.1
    kind, _ = OPERATORS[name]
    monkeypatch.setattr(kind, '_makes_large_tensors', lambda op: False)
    assert kept(build(name, 64)) > (2.9 if name != 'conditional' else 0.9)


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('name', ['feature bands', 'one tap'])
def test_one_kernel_for_all_samples_is_not_copied(name, recompute):
    if name == 'one tap':
        op = CondConv2d(64, 64, 1, kernel=False, spatial=True, recompute=recompute)
        with torch.no_grad():
            op.bias.normal_()
    else:
        op = build(name, 64, recompute=recompute)
    assert kept(op) < 0.1
    x = torch.randn(3, 64, 5, 6, requires_grad=True)
    y = op(x)
    expected = nn.functional.conv2d(op._features(x), op.weight, op.bias, padding=op.padding)
    assert torch.equal(y, expected)
    assert op.kernel(x).shape == (3, *op.weight.shape)
    y.sum().backward()
    assert op.weight.grad.any() and x.grad.any()
    assert torch.allclose(op(x[0]), y[0], atol=1e-5) and op(x[:0]).shape == (0, *y.shape[1:])


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('name', ['omni-dimensional', 'frequency'])
def test_second_derivatives(name, recompute):
    kind, options = OPERATORS[name]
    torch.manual_seed(0)
    op = moved(kind(2, 3, (3, 1), recompute=recompute, dtype=torch.float64, **options))
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    gate = op.filter_gate.weight

    def changed(x: torch.Tensor, weight: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(op, {'weight': weight, 'filter_gate.weight': gate}, (x,))

    assert torch.autograd.gradgradcheck(changed, (x, op.weight, gate))


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('name', ['omni-dimensional', 'frequency'])
def test_backward_of_a_functional_call_takes_its_parameters(name, recompute):
    op, x = build(name, recompute=recompute), torch.randn(2, 8, 5, 5)
    given = {key: (1.5 * p.detach() + 0.1).requires_grad_() for key, p in op.named_parameters()}
    torch.func.functional_call(op, given, (x,)).square().sum().backward()
    with torch.no_grad():
        for key, p in op.named_parameters():
            p.copy_(given[key])
    op(x).square().sum().backward()
    assert all(torch.equal(p.grad, given[key].grad) for key, p in op.named_parameters())


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('change', ['parameter', 'image'])
def test_what_changes_before_backward_is_refused(change, recompute):
    op, x = build('frequency', recompute=recompute), torch.randn(2, 8, 5, 5)
    y = op(x)
    with torch.no_grad():
        (op.local_gate.weight if change == 'parameter' else x).mul_(2)
    with pytest.raises(RuntimeError, match=r'changed since forward|modified by an inplace operation'):
        y.sum().backward()


@pytest.mark.parametrize('name', OPERATORS)
def test_no_parameter_changes_unnoticed_before_backward(name):
    """Of those that are used in backward; a bias and the experts' biases are not."""
    for key, _ in build(name).named_parameters():
        op, x = build(name), torch.randn(2, 8, 5, 5)
        op(x).square().sum().backward()
        expected = [p.grad for p in op.parameters()]
        op.zero_grad()
        loss = op(x).square().sum()
        with torch.no_grad():
            op.get_parameter(key).mul_(10)
        try:
            loss.backward()
        except RuntimeError as error:
            assert re.search(r'changed since forward|modified by an inplace operation', str(error))
        else:
            assert all(torch.equal(p.grad, e) for p, e in zip(op.parameters(), expected, strict=True))


def test_a_frozen_layer_saves_no_more():
    op = build('frequency').requires_grad_(False)
    assert kept(op) < 0.1 and not op(torch.randn(2, 8, 5, 5)).requires_grad
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    op(x).sum().backward()
    assert x.grad.any()


MIXED = [name for name, (kind, options) in OPERATORS.items() if kind is CondConv2d or 'ksm_local' in options]


@pytest.mark.parametrize('name', [*MIXED, 'frequency', 'frequency grouped', 'frequency batch norm'])
def test_both_forms_of_a_graph_compute_the_layer(name):
    changes = {} if name in MIXED else {'ksm_local': False}
    op, x = build(name, **changes).double().eval(), torch.randn(2, 8, 9, 8, dtype=torch.float64)
    expected = op(x)
    for form in ('unfold', 'mixture'):
        with exported_as(op, form):
            traced = torch.jit.trace(op, x)
        assert f"export_form='{form}'" not in repr(op)
        assert relative(traced(x), expected) < 1e-12
        other = torch.randn(3, 8, 6, 11, dtype=torch.float64)
        assert relative(traced(other), op(other)) < 1e-12


def test_a_layer_without_a_form_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), build('conditional'), build('frequency'), nn.ReLU())
    message = r"^2 \(FDConv2d\): export_form='mixture' needs ksm_local=False"
    with pytest.raises(ArgumentError, match=message), exported_as(model, 'mixture'):
        pass
    assert model[1].options.export_form == 'unfold'
    with pytest.raises(ArgumentError, match='needs ksm_local=False'):
        FDConv2d(8, 8, 3, export_form='mixture')


@pytest.mark.parametrize('name', ['omni-dimensional', 'frequency', 'frequency local'])
def test_a_samples_output_does_not_depend_on_the_others(name):
    op = build(name, 64)
    x, others = torch.randn(3, 64, 7, 7), 100 * torch.randn(3, 64, 7, 7)
    others[1] = x[1]
    for batch in (x, others, x[1:2]):
        assert relative(op(batch)[len(batch) // 2], op(x)[1]) < 1e-5


def test_the_gates_tell_what_an_image_gets():
    x = torch.randn(2, 8, 7, 7)
    op = build('omni-dimensional')
    gates = op.gates(x)
    assert gates.routing.shape == (2, 4) and relative(1 + gates.routing.sum(1), torch.ones(2)) < 1e-6
    assert gates.taps.shape == (2, 9) and gates.filters.shape == gates.channels.shape == (2, 8)
    op = build('frequency')
    gates = op.gates(x)
    assert gates.bands.shape == (2, 4) and gates.means.shape == (2, 8) and op.band_gains(x).shape == (2, 3, 7, 7)
    assert (gates.bands.abs() < 1).all()
    assert build('frequency local').gates(x)[:4] == (None,) * 4


@pytest.mark.parametrize('kind', [CondConv2d, FDConv2d])
def test_batch_norms_and_no_samples(kind):
    op = kind(32, 32, 3, padding=1, gate_norm='bn', reduction=0.25)
    before = copy.deepcopy(op.state_dict())
    assert op(torch.zeros(0, 32, 5, 5)).shape == (0, 32, 5, 5)
    assert all(torch.equal(value, before[name]) for name, value in op.state_dict().items())
    assert all(m.training for m in op.modules())


def test_a_synchronised_norm_takes_one_sample_of_each_process():
    op = nn.SyncBatchNorm.convert_sync_batchnorm(CondConv2d(32, 32, 3, reduction=0.25, gate_norm='bn'))
    # In one process, the norm itself refuses its input.
    with pytest.raises(ValueError, match=r'Expected more than 1 value per channel|SyncBatchNorm expected'):
        op(torch.randn(1, 32, 5, 5))
