"""Explicit reuse of generated kernels."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
import torch.distributed.fsdp
from torch import nn

from mmkerv.ops import CoCConv2d, DCLSConv2d, ReparamConv2d, SMPConv2d, frozen_kernels
from mmkerv.ops.core import generated


@pytest.fixture
def model():
    torch.manual_seed(0)
    first, second = (CoCConv2d(4, 4, 3, padding=1, super_init='kaiming') for _ in range(2))
    return nn.Sequential(first, nn.ReLU(), second, first).eval()


@pytest.fixture
def computed(monkeypatch):
    """Names of the operators whose kernel was computed, in order."""
    calls, original = [], CoCConv2d._kernel
    monkeypatch.setattr(CoCConv2d, '_kernel', lambda self: calls.append(id(self)) or original(self))
    return calls


def test_each_kernel_is_computed_once(model, computed):
    x = torch.randn(1, 4, 6, 6)
    expected = model(x)
    computed.clear()
    with frozen_kernels(model) as same, torch.no_grad():
        assert same is model
        assert all(torch.equal(model(x), expected) for _ in range(3))
    assert len(computed) == 2
    model(x)
    assert len(computed) == 5


def test_outside_the_block_new_parameters_take_effect_at_once(model):
    x = torch.randn(1, 4, 6, 6)
    with frozen_kernels(model), torch.no_grad():
        frozen = model(x)
    for p in model.parameters():
        p.data.mul_(0.5)
    assert not torch.equal(model(x), frozen)


def test_a_block_after_an_inplace_swap_uses_the_new_parameters(model):
    x = torch.randn(1, 4, 6, 6)
    for factor in (2.0, 0.25):
        for p in model.parameters():
            p.data.mul_(factor)
        with frozen_kernels(model), torch.no_grad():
            assert torch.allclose(model(x), model(x))
            inside = model(x)
        assert torch.allclose(inside, model(x))


def test_training_inside_is_refused(model):
    with frozen_kernels(model), pytest.raises(RuntimeError, match='Train outside the block'):
        model.train()(torch.randn(1, 4, 6, 6))
    model.train()(torch.randn(1, 4, 6, 6)).sum().backward()


def test_gradients_of_the_input_pass(model):
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    with torch.inference_mode(), frozen_kernels(model), torch.inference_mode(False):
        model(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_blocks_nest(model, computed):
    with frozen_kernels(model):
        with frozen_kernels(model):
            pass
        model(torch.randn(1, 4, 6, 6))
    assert len(computed) == 2
    assert model[0]._frozen_kernel is None


def test_an_exception_closes_the_block(model):
    with pytest.raises(ZeroDivisionError), frozen_kernels(model):
        raise ZeroDivisionError
    assert model[0]._frozen_kernel is None


def test_copies_and_pickles_are_not_frozen(model):
    with frozen_kernels(model):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        assert model[0]._frozen_kernel is not None
    for other in copies:
        assert other[0]._frozen_kernel is None and not other[0]._frozen_blocks
        assert '_frozen_kernel' not in other.state_dict()


def test_loading_inside_is_refused(model):
    state = model.state_dict()
    with frozen_kernels(model), pytest.raises(RuntimeError, match='stale'):
        model.load_state_dict(state)
    model.load_state_dict(state)


def test_the_frozen_kernel_follows_the_model(model):
    with frozen_kernels(model), torch.no_grad():
        assert model.double()(torch.randn(1, 4, 6, 6, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    'make',
    [
        lambda: ReparamConv2d(4, 4, 3, padding=1, preset='repvgg'),
        lambda: ReparamConv2d(4, 4, 3, padding=1, branch_norm=None),
        lambda: SMPConv2d(4, 4, 3, padding=1, kernel_extent=7, bias=False),
    ],
    ids=['norms', 'scales', 'points'],
)
def test_branches_and_their_norms_are_combined_once(make, monkeypatch):
    op, x, combined = make(), torch.randn(2, 4, 6, 6), []
    op(3 * x + 1)  # moves the running statistics
    expected, original = op.eval()(x), type(op).branches
    monkeypatch.setattr(type(op), 'branches', lambda self: combined.append(self) or original(self))
    with frozen_kernels(nn.Sequential(op)), torch.no_grad():
        combined.clear()
        assert torch.allclose(op(x), expected, atol=1e-5) and not combined
        assert torch.allclose(op.double()(x.double()).float(), expected, atol=1e-5) and not combined
        op.train()
        inside = op(x.double())
    with torch.no_grad():
        assert torch.allclose(op(x.double()), inside) and op._frozen_bias is None


def test_threads_share_one_model(model, computed):
    x, results, start = torch.randn(1, 4, 6, 6), [], threading.Barrier(8)
    expected = model(x).detach()
    computed.clear()

    def work():
        start.wait()
        for _ in range(5):
            with frozen_kernels(model), torch.no_grad():
                results.append(torch.equal(model(x), expected))

    with frozen_kernels(model):
        threads = [threading.Thread(target=work) for _ in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    assert results == [True] * 40 and len(computed) == 2
    assert model[0]._frozen_kernel is None and model[0]._frozen_blocks == 0


def test_compiles_inside_the_block(model):
    torch._dynamo.reset()
    compiled, x = torch.compile(model, fullgraph=True, backend='aot_eager'), torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(compiled(x), expected, atol=1e-6)
        with frozen_kernels(model):
            assert torch.allclose(compiled(x), expected, atol=1e-6)
        model[0].weight.mul_(2)
        assert torch.allclose(compiled(x), model(x), atol=1e-6)


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone, on the CPU."""
    distributed = torch.distributed
    distributed.init_process_group('gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh('cpu', (1,))
    distributed.destroy_process_group()


@pytest.mark.skipif(not hasattr(torch.distributed.fsdp, 'fully_shard'), reason='this torch has no fully_shard')
@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=['float32', 'bfloat16'])
def test_kernels_of_a_sharded_model_are_computed_from_whole_parameters(model, computed, one_process, dtype):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    x = torch.randn(1, 4, 6, 6)
    expected = model(x)
    policy = MixedPrecisionPolicy(param_dtype=dtype)
    fully_shard(model, mesh=one_process, mp_policy=policy, reshard_after_forward=True)
    computed.clear()
    with frozen_kernels(model), torch.no_grad():
        assert (model(x) - expected).abs().max() <= (0 if dtype is None else 0.05) * expected.abs().max()
    assert len(computed) == 2 and all(hasattr(p, 'full_tensor') for p in model.parameters())


def test_many_evaluations_outside_the_block_are_named_once(model, monkeypatch):
    monkeypatch.setattr(generated, 'MANY_EVALUATIONS', 3)
    generated.warn_of_evaluations.cache_clear()
    x = torch.randn(1, 4, 6, 6)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        for _ in range(5):
            model(x)
            model.train()
            with torch.no_grad():
                model(x)
            model.eval()
        with frozen_kernels(model), torch.no_grad():
            for _ in range(5):
                model(x)
        assert not seen
        with torch.no_grad():
            for _ in range(5):
                model(x)
    assert [str(warning.message).split(',')[0] for warning in seen] == [
        'mmkerv: this model is evaluated outside mmkerv.ops.frozen_kernels'
    ]


def test_evaluations_on_purpose_do_not_count(model, monkeypatch, recwarn):
    monkeypatch.setattr(generated, 'MANY_EVALUATIONS', 3)
    generated.warn_of_evaluations.cache_clear()
    x = torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        model(x)
        before = model[0]._evaluations
        with pytest.raises(ZeroDivisionError), generated.uncounted_evaluations(model, model):
            for _ in range(5):
                model(x)
            raise ZeroDivisionError
    assert model[0]._evaluations == before > 0 and not recwarn.list


def test_evaluations_are_not_part_of_a_model(model):
    with torch.no_grad():
        model(torch.randn(1, 4, 6, 6))
    assert model[0]._evaluations == 2 and copy.deepcopy(model)[0]._evaluations == 0
    assert pickle.loads(pickle.dumps(model))[0]._evaluations == 0


@pytest.mark.parametrize('kind', [CoCConv2d, DCLSConv2d])
def test_training_inside_is_refused_with_a_frozen_weight(kind):
    op = kind(4, 8, 3)
    op.weight.requires_grad_(False)
    with frozen_kernels(op), pytest.raises(RuntimeError, match='was trained inside frozen_kernels'):
        op(torch.randn(2, 4, 5, 5))
    op.requires_grad_(False)
    with frozen_kernels(op):
        op(torch.randn(2, 4, 5, 5))


def test_new_running_statistics_give_a_new_kernel():
    torch.manual_seed(0)
    op, x = ReparamConv2d(4, 8, 3, preset='repvgg'), torch.randn(4, 4, 6, 6)
    with frozen_kernels(op), torch.no_grad():
        op(5 * x)
        y = op.eval()(x)
    assert torch.allclose(y, op(x), atol=1e-6)


def test_norms_of_branches_take_one_sample():
    op, x = ReparamConv2d(4, 8, 3, preset='repvgg'), torch.randn(4, 6, 6)
    assert torch.equal(op(x), op(x[None])[0])
