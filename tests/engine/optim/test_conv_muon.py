"""ConvMuon: Newton-Schulz against singular values, the update against loops, timm's and torch's optimizers."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmkerv.engine.optim.conv_muon import ConvMuon, newton_schulz, orthogonalised
from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.registry import OPTIMIZERS

A, B, C = 3.4445, -4.7750, 2.0315


def oracle(matrix, steps=5):
    """The iteration on the singular values alone."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = A * s + B * s**3 + C * s**5
    return u * s @ vh


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize('shape', [(4, 9), (9, 4), (5, 5), (1, 6), (6, 1)], ids=str)
@pytest.mark.parametrize('steps', [1, 5])
def test_newton_schulz_moves_the_singular_values_alone(shape, steps):
    matrices = normal(3, *shape)
    found = newton_schulz(matrices, steps)
    for matrix, x in zip(matrices, found, strict=True):
        torch.testing.assert_close(x, oracle(matrix, steps), atol=1e-10, rtol=1e-10)


def test_singular_values_end_near_1():
    s = torch.linalg.svdvals(newton_schulz(normal(1, 64, 576)))
    assert s.min() >= 0.68 and s.max() <= 1.21


def test_zeros_stay_zeros():
    assert torch.equal(newton_schulz(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))
    weight = nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.zeros(2, 3)
    ConvMuon([weight], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.data, torch.full((2, 3), 0.95))


def naive(weight, gradients, *, lr, beta, decay, nesterov, groups, adjust):
    """The update of a kernel, group by group, by singular values."""
    momentum = torch.zeros_like(weight)
    for gradient in gradients:
        momentum = beta * momentum + (1 - beta) * gradient
        mixed = beta * momentum + (1 - beta) * gradient if nesterov else momentum
        update = torch.empty_like(weight)
        filters = len(weight) // groups
        for g in range(groups):
            rows = slice(g * filters, (g + 1) * filters)
            matrix = mixed[rows].reshape(filters, -1)
            columns = matrix.shape[1]
            if adjust == 'original':
                scale = max(1, filters / columns) ** 0.5
            else:
                scale = 0.2 * max(filters, columns) ** 0.5
            update[rows] = (scale * oracle(matrix)).reshape(weight[rows].shape)
        weight = (1 - lr * decay) * weight - lr * update
    return weight


def steps(optimizer, weight, gradients):
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize('adjust', ['original', 'match_rms_adamw'])
@pytest.mark.parametrize('nesterov', [True, False])
@pytest.mark.parametrize(
    ('shape', 'groups'),
    [((6, 4, 3, 3), 1), ((6, 4, 3, 3), 2), ((12, 3, 1, 1), 1), ((12, 2, 1, 1), 2), ((8, 5), 1), ((4, 3, 5), 1)],
    ids=str,
)
def test_update_is_that_of_loops(shape, groups, nesterov, adjust):
    start, gradients = normal(*shape), [normal(*shape, seed=seed) for seed in (1, 2, 3)]
    options = dict(lr=0.1, weight_decay=0.3, nesterov=nesterov, adjust_lr_fn=adjust)
    weight = nn.Parameter(start.clone())
    found = steps(ConvMuon([weight], momentum=0.8, groups=groups, **options), weight, gradients)
    expected = naive(start, gradients, lr=0.1, beta=0.8, decay=0.3, nesterov=nesterov, groups=groups, adjust=adjust)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


SHAPES = [(16, 8, 3, 3), (64, 16, 1, 1), (16, 64, 1, 1), (24, 10), (10, 24)]


@pytest.mark.parametrize('adjust', ['original', 'match_rms_adamw'])
@pytest.mark.parametrize('nesterov', [True, False])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_timms_muon_agrees(shape, nesterov, adjust):
    """In bfloat16, the only type that timm's iteration has."""
    timm = pytest.importorskip('timm.optim')
    start, gradients = normal(*shape).float(), [normal(*shape, seed=seed).float() for seed in (1, 2, 3)]
    options = dict(lr=0.02, momentum=0.95, nesterov=nesterov, weight_decay=0.1, adjust_lr_fn=adjust)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    found = steps(ConvMuon([ours], ns_dtype='bfloat16', **options), ours, gradients)
    expected = steps(timm.Muon([theirs], ns_coefficients='original', **options), theirs, gradients)
    change = (expected - start).norm()
    assert (found - expected).norm() < 0.01 * change


@pytest.mark.parametrize('adjust', ['original', 'match_rms_adamw'])
@pytest.mark.parametrize('shape', [shape for shape in SHAPES if len(shape) == 2], ids=str)
def test_torchs_muon_agrees_on_matrices(shape, adjust):
    if not hasattr(torch.optim, 'Muon'):
        pytest.skip('torch.optim.Muon is new in torch 2.9')
    start, gradients = normal(*shape).float(), [normal(*shape, seed=seed).float() for seed in (1, 2, 3)]
    options = dict(lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn=adjust)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    found = steps(ConvMuon([ours], ns_dtype='bfloat16', **options), ours, gradients)
    expected = steps(torch.optim.Muon([theirs], **options), theirs, gradients)
    assert (found - expected).norm() < 0.01 * (expected - start).norm()


def test_a_tall_1x1_kernel_has_its_factor():
    """The first public code has 1 for it, because it takes the kernel's last two axes."""
    update = orthogonalised(normal(256, 64, 1, 1))
    s = torch.linalg.svdvals(update.flatten(1))
    assert s.min() >= 2 * 0.68 and s.max() <= 2 * 1.21


@pytest.mark.parametrize(
    ('rule', 'kind', 'settings'),
    [
        ('AdamW', torch.optim.AdamW, dict(lr=0.01, betas=(0.8, 0.99), weight_decay=0.05)),
        ('SGD', torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)),
    ],
)
def test_the_other_rules_are_torchs(rule, kind, settings):
    start, gradients = normal(7), [normal(7, seed=seed) for seed in (1, 2, 3)]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = ConvMuon([dict(params=[nn.Parameter(normal(3, 3))]), dict(params=[ours], rule=rule, **settings)])
    assert torch.equal(steps(optimizer, ours, gradients), steps(kind([theirs], **settings), theirs, gradients))
    group = optimizer.param_groups[1]
    assert 'ns_steps' not in group and group['lr'] == settings['lr']


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten()).to(dtype)


def optimizer_of(net):
    vectors = [p for p in net.parameters() if p.dim() == 1]
    return ConvMuon(
        [
            dict(params=[net[0].weight], weight_decay=0.1),
            dict(params=[net[2].weight], groups=2),
            dict(params=vectors[:2], rule='AdamW', lr=1e-2),
            dict(params=vectors[2:], rule='SGD', lr=1e-2, momentum=0.9),
        ]
    )


def train(net, optimizer, count, seed):
    for step in range(count):
        optimizer.zero_grad()
        net(normal(2, 3, 6, 6, seed=seed + step, dtype=torch.float32)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize('way', ['state dict', 'deepcopy', 'pickle'])
def test_a_resumed_run_ends_with_the_same_bits(way):
    net = network()
    optimizer = optimizer_of(net)
    train(net, optimizer, 3, seed=1)
    if way == 'state dict':
        other = network()
        other.load_state_dict(copy.deepcopy(net.state_dict()))
        resumed = optimizer_of(other)
        train(other, resumed, 0, seed=0)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif way == 'deepcopy':
        other, resumed = copy.deepcopy((net, optimizer))
    else:
        other, resumed = pickle.loads(pickle.dumps((net, optimizer)))
    train(net, optimizer, 3, seed=4)
    train(other, resumed, 3, seed=4)
    for first, second in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(net[0].weight, network()[0].weight)


def test_loading_after_a_step_goes_on_from_the_checkpoint():
    net = network()
    optimizer = optimizer_of(net)
    train(net, optimizer, 1, seed=1)
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(net, optimizer, 2, seed=2)
    expected = copy.deepcopy(net.state_dict())
    net.load_state_dict(weights)
    optimizer.load_state_dict(state)
    train(net, optimizer, 2, seed=2)
    for name, value in net.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_scheduler_reaches_every_rule():
    net = network()
    optimizer = optimizer_of(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0 if epoch else 1.0)
    train(net, optimizer, 1, seed=1)
    scheduler.step()
    before = copy.deepcopy(list(net.parameters()))
    train(net, optimizer, 1, seed=2)
    assert all(torch.equal(first, second) for first, second in zip(before, net.parameters(), strict=True))


def test_closure_and_autocast():
    """The iteration does not run in the precision around it."""
    weight = nn.Parameter(normal(4, 9).float())
    gradient = normal(4, 9, seed=1).float()

    def closure():
        assert torch.is_grad_enabled()
        weight.grad = gradient.clone()
        return 3.0

    expected = naive(
        weight.detach().double(), [gradient.double()], lr=0.1, beta=0.95, decay=0, nesterov=True, groups=1,
        adjust='original',
    )  # fmt: skip
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert ConvMuon([weight], lr=0.1).step(closure) == 3.0
    torch.testing.assert_close(weight.detach().double(), expected, atol=1e-5, rtol=1e-5)


def test_parameters_without_gradient_stay():
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = ConvMuon([weight], weight_decay=0.5)
    optimizer.step()
    assert torch.equal(weight.data, torch.ones(2, 2)) and not optimizer.state


def test_channels_last_kernels():
    start, gradient = normal(4, 3, 3, 3), normal(4, 3, 3, 3, seed=1)
    plain, last = nn.Parameter(start.clone()), nn.Parameter(start.clone(memory_format=torch.channels_last))
    found = steps(ConvMuon([plain]), plain, [gradient])
    again = steps(ConvMuon([last]), last, [gradient.contiguous(memory_format=torch.channels_last)])
    torch.testing.assert_close(found, again)


def test_it_is_registered():
    optimizer = OPTIMIZERS.build(dict(type='mmkerv.ConvMuon', params=[nn.Parameter(torch.zeros(2, 2))], lr=0.1))
    assert isinstance(optimizer, ConvMuon)


MATRIX, VECTOR = torch.zeros(4, 6), torch.zeros(4)


@pytest.mark.parametrize(
    ('options', 'kind', 'message'),
    [
        (dict(lr=-1.0), ArgumentError, 'lr must be >= 0, got -1.0'),
        (dict(lr='0.1'), ArgumentTypeError, "lr must be a number >= 0, got '0.1'"),
        (dict(momentum=1.0), ArgumentError, r'momentum must be in \[0, 1\), got 1.0'),
        (dict(weight_decay=-0.1), ArgumentError, 'weight_decay must be >= 0'),
        (dict(nesterov=1), ArgumentTypeError, 'nesterov must be True or False'),
        (dict(ns_steps=0), ArgumentError, 'ns_steps must be >= 1, got 0'),
        (dict(eps=0), ArgumentError, 'eps must be > 0'),
        (dict(adjust_lr_fn='orignal'), ArgumentError, "adjust_lr_fn must be one of .*did you mean 'original'"),
        (dict(ns_dtype='float16'), ArgumentError, "ns_dtype must be one of 'float32', 'bfloat16'"),
        (dict(groups=3), ArgumentError, r'groups must divide the output channels, got groups=3 and a weight of \(4, 6'),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(options, kind, message):
    with pytest.raises(kind, match=message):
        ConvMuon([nn.Parameter(MATRIX)], **options)


@pytest.mark.parametrize(
    ('group', 'message'),
    [
        (dict(params=[nn.Parameter(VECTOR)]), r"of shape \(4,\); put it into a group with rule='AdamW' or 'SGD'"),
        (dict(params=[nn.Parameter(MATRIX + 0j)]), 'real weights of two axes or more, got a torch.complex64'),
        (dict(params=[nn.Parameter(VECTOR)], rule='adam', lr=1.0), "rule must be one of 'muon', 'AdamW', 'SGD', got"),
        (dict(params=[nn.Parameter(VECTOR)], rule='AdamW'), "rule='AdamW' must have a learning rate of its own"),
        (dict(params=[nn.Parameter(VECTOR)], rule='SGD', lr=1.0, momentum=-1.0), 'Invalid momentum value: -1.0'),
        (dict(params=[nn.Parameter(MATRIX)], momentum=2.0), r'momentum must be in \[0, 1\)'),
    ],
    ids=[f'group{number}' for number in range(6)],
)
def test_a_bad_group_is_named_and_not_added(group, message):
    optimizer = ConvMuon([nn.Parameter(MATRIX)])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


def test_a_sparse_gradient_is_refused():
    weight = nn.Parameter(torch.zeros(4, 6))
    weight.grad = torch.zeros(4, 6).to_sparse()
    with pytest.raises(RuntimeError, match='sparse gradient; give its parameter another rule'):
        ConvMuon([weight]).step()


def test_scale_of_an_update_is_that_of_adamw():
    """About 0.2, the root mean square of AdamW's updates."""
    update = orthogonalised(normal(64, 64, 3, 3), adjust_lr_fn='match_rms_adamw')
    assert update.square().mean().sqrt() == pytest.approx(0.2, rel=0.35)


def test_a_state_of_a_torch_with_fewer_settings_is_loaded():
    net = network()
    optimizer = optimizer_of(net)
    train(net, optimizer, 1, 0)
    state = copy.deepcopy(optimizer.state_dict())
    for group in state['param_groups']:
        for name in ('fused', 'decoupled_weight_decay'):
            group.pop(name, None)
    optimizer.load_state_dict(state)
    train(net, optimizer, 1, 1)


def test_a_state_of_another_optimizer_is_refused():
    net = network()
    optimizer = optimizer_of(net)
    state = optimizer.state_dict()
    for group in state['param_groups']:
        del group['rule']
    with pytest.raises(ArgumentError, match='not that of ConvMuon'):
        optimizer.load_state_dict(state)
