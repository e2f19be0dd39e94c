"""Training of every operator: the same numbers from the same seed, and steps of mixed precision."""

import copy

import pytest
import torch
from torch import nn

from tests.ops.catalogue import VARIANTS, layer, sample


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def train(name: str) -> list[torch.Tensor]:
    """Parameters, gradients and losses of two steps."""
    model = nn.Sequential(layer(name))
    optimizer, x, losses = torch.optim.SGD(model.parameters(), 0.01, 0.9), sample(model[0]), []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *model.state_dict().values(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize('name', VARIANTS)
def test_two_runs_from_one_seed_are_equal_to_the_bit(name, deterministic):
    first, second = train(name), train(name)
    assert len(first) > 3 and all(torch.isfinite(t).all() for t in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize('name', VARIANTS)
def test_two_runs_on_cuda_are_equal_to_the_bit(name, deterministic, monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    runs = []
    for _ in range(2):
        model = layer(name).cuda()
        model(sample(model).cuda()).square().mean().backward()
        runs.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def scaler(device: str):
    if not hasattr(torch, 'amp') or not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('torch before 2.3 has no GradScaler on CPUs')
    return torch.amp.GradScaler(device, init_scale=2.0**10)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', VARIANTS)
def test_a_scaled_step_is_the_step_of_float32(name, dtype):
    """And one whose loss is infinite is left out, the scale halved."""
    scaled, model = scaler('cpu'), layer(name)
    plain, x = copy.deepcopy(model), sample(model)
    optimizers = [torch.optim.SGD(m.parameters(), 1e-3) for m in (model, plain)]
    plain(x).square().mean().backward()
    with torch.autocast('cpu', dtype=dtype):
        loss = model(x).float().square().mean()
    scaled.scale(loss).backward()
    scaled.step(optimizers[0])
    scaled.update()
    optimizers[1].step()
    assert scaled.get_scale() == 2.0**10
    for key, gradient in ((k, p.grad) for k, p in plain.named_parameters()):
        own = dict(model.named_parameters())[key].grad
        # Relative to all gradients: what cancels within a half-precision sum has few digits left.
        size = max(p.grad.abs().max() for p in plain.parameters())
        assert (own - gradient).abs().max() <= 0.1 * size, key
    # A forward pass puts parameters that the step has moved out of their limits back.
    model(x)
    before = [p.detach().clone() for p in model.parameters()]
    optimizers[0].zero_grad()
    with torch.autocast('cpu', dtype=dtype):
        loss = model(x).float().square().mean() * float('inf')
    scaled.scale(loss).backward()
    scaled.step(optimizers[0])
    scaled.update()
    assert scaled.get_scale() == 2.0**9
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
