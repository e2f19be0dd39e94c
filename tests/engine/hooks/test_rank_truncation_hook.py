"""Ranks that fall in training: parameters, optimizers, averages, checkpoints."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.engine import CheckpointMatchHook, RankTruncationHook, apply_patches
from mmkerv.engine.checkpoint.match import match_checkpoint
from mmkerv.errors import ArgumentError, CheckpointMismatchError, ConfigError
from mmkerv.ops import LowRankConv, LowRankConv2d
from tests.engine.small_networks import SIZE, classifier
from tests.engine.tiny_runner import TinyModel, tiny_runner
from tests.ops.contract import relative

HOOK = dict(type='mmkerv.RankTruncationHook', tolerance=0.0)
MATCH = dict(type='mmkerv.CheckpointMatchHook', strict=True)
EMA = dict(type='EMAHook', momentum=0.1)
OPTIMIZERS = {
    'SGD': dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-3),
    'AdamW': dict(type='AdamW', lr=1e-3),
}


@pytest.fixture(autouse=True)
def installed():
    apply_patches()


def network(redundant: bool = True, **options) -> TinyModel:
    """A network with a kernel of ranks (2, 4), in a chain of ranks (3, 6)."""
    model = TinyModel(LowRankConv, rank=(3, 6), **options)
    if redundant:
        with torch.no_grad():
            model.conv.first[2] = model.conv.first[0] - model.conv.first[1]
            model.conv.last[:, 4:] = model.conv.last[:, :2]
    return model


def train(tmp_path, model, hooks=(HOOK,), epochs: int = 1, optimizer: str = 'SGD', **kwargs):
    settings = dict(optim_wrapper=dict(optimizer=OPTIMIZERS[optimizer])) | kwargs
    settings.setdefault('train_cfg', dict(by_epoch=True, max_epochs=epochs, val_interval=1))
    runner = tiny_runner(tmp_path, model, custom_hooks=[MATCH, *hooks], **settings)
    runner.train()
    return runner


def text(tmp_path) -> str:
    return ''.join(file.read_text() for file in sorted(tmp_path.glob('*/*.log')))


class Watch(RankTruncationHook):
    """The hook, with copies of the network, its average and the optimizer's state from before and after."""

    def _truncate(self, runner):
        self.before, self.state = copy.deepcopy(runner.model), copy.deepcopy(runner.optim_wrapper.state_dict())
        self.groups = [list(group['params']) for group in runner.optim_wrapper.optimizer.param_groups]
        super()._truncate(runner)
        self.after, self.changed = copy.deepcopy(runner.model), copy.deepcopy(runner.optim_wrapper.state_dict())


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_a_redundant_chain_shrinks_and_training_goes_on(tmp_path, optimizer):
    # Training makes the ranks full again, so the tolerance is not zero.
    model, hook = network(), Watch(tolerance=0.1, interval=2)
    runner = train(tmp_path, model, [hook], 3, optimizer)
    conv, before = hook.after.conv, hook.before.conv
    assert before.ranks == (3, 6) and conv.ranks != (3, 6) and model.conv.ranks == conv.ranks
    error = float((conv.kernel() - before.kernel()).norm() / before.kernel().norm())
    assert 0 < error <= 0.1
    weights = [sum(p.numel() for p in op.own_parameters().values()) for op in (before, conv)]
    said = text(tmp_path)
    assert f'conv: ranks (3, 6) -> {conv.ranks}, error {error:.3g}, weights {weights[0]} -> {weights[1]}' in said
    assert f'truncated 1 of 1 low-rank layers, {weights[0]} -> {weights[1]} weights; the state of the optimizer' in said
    # The groups keep their parameters and settings, other parameters their state.
    groups = runner.optim_wrapper.optimizer.param_groups
    assert all(a is b for old, new in zip(hook.groups, groups) for a, b in zip(old, new['params'], strict=True))
    assert hook.state['param_groups'] == hook.changed['param_groups']
    numbers = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    kernels = {numbers[f'conv.{name}'] for name in conv.kernel_names()}
    assert set(hook.state['state']) == set(numbers.values())
    assert set(hook.changed['state']) == set(numbers.values()) - kernels
    for number, state in hook.changed['state'].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(hook.state['state'][number][name]))
    # The third epoch filled it again.
    assert len(runner.optim_wrapper.optimizer.state) == len(numbers)
    assert not torch.equal(model.conv.core, conv.core)


def test_exact_redundancy_is_removed_without_a_change(tmp_path):
    model, hook = network(), Watch(tolerance=0.0)
    model.conv.requires_grad_(True)
    # With a learning rate of zero the redundancy lasts.
    train(tmp_path, model, [hook], optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)))
    assert model.conv.ranks == (2, 4)
    assert relative(hook.after.conv.kernel(), hook.before.conv.kernel()) <= 1e-6
    assert 'the state of the optimizer' not in text(tmp_path)


def test_nothing_to_lower_is_said(tmp_path):
    train(tmp_path, network(redundant=False))
    assert 'no rank of 1 low-rank layers can be lowered within an error of 0' in text(tmp_path)


def test_iterations_are_counted(tmp_path):
    model = network()
    hook = Watch(tolerance=0.2, interval=3, by_epoch=False)
    train(tmp_path, model, [hook], 2)
    assert model.conv.ranks == hook.after.conv.ranks != (3, 6)


@pytest.mark.parametrize('order', [1, -1], ids=['before', 'after'])
def test_averages_shrink_with_the_network(tmp_path, order):
    model = network()
    runner = train(tmp_path, model, [HOOK | dict(tolerance=0.2), EMA][::order], 2)
    average = next(hook.ema_model.module for hook in runner.hooks if hasattr(hook, 'ema_model'))
    assert average.conv.ranks == model.conv.ranks != (3, 6)
    assert relative(average.conv.kernel(), model.conv.kernel()) < 0.5
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert saved['state_dict']['conv.core'].shape == saved['ema_state_dict']['module.conv.core'].shape
    assert torch.equal(saved['state_dict']['conv.core'], average.conv.core)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('hooks', [[], [EMA], [EMA | dict(update_buffers=True)]], ids=['plain', 'averaged', 'buffers'])
def test_a_resumed_training_is_the_one_without_a_break(tmp_path, optimizer, hooks):
    hooks = [HOOK | dict(tolerance=0.15), *hooks]
    whole, first, second = network(), network(), network(redundant=False)
    train(tmp_path / 'whole', whole, hooks, 3, optimizer)
    train(tmp_path / 'parts', first, hooks, 1, optimizer)
    assert first.conv.ranks != (3, 6) == second.conv.ranks
    file = str(tmp_path / 'parts' / 'epoch_1.pth')
    assert not any(match_checkpoint(second, torch.load(file, weights_only=False)['state_dict'])[1:])
    train(tmp_path / 'parts', second, hooks, 3, optimizer, load_from=file, resume=True)
    assert second.conv.ranks == whole.conv.ranks
    for key, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key
    states = [torch.load(tmp_path / name / 'epoch_3.pth', weights_only=False) for name in ('whole', 'parts')]
    for key, value in states[0].get('ema_state_dict', {}).items():
        assert torch.equal(states[1]['ema_state_dict'][key], value), key
    assert f'conv takes ranks {first.conv.ranks} of the checkpoint; its arguments give (3, 6)' in text(
        tmp_path / 'parts'
    )


def test_higher_ranks_than_those_of_the_config_are_refused(tmp_path):
    train(tmp_path / 'whole', network(redundant=False), [])
    with pytest.raises(CheckpointMismatchError, match=r'3 of another shape \(conv\.first, conv\.core, conv\.last\)'):
        train(
            tmp_path / 'other',
            TinyModel(LowRankConv, rank=(2, 2)),
            [],
            load_from=str(tmp_path / 'whole' / 'epoch_1.pth'),
        )


class Wrapper(nn.Module):
    """What ``MMDistributedDataParallel`` is to the hooks."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_several_devices_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('mmkerv.engine.hooks.rank_truncation_hook.is_model_wrapper', lambda m: isinstance(m, Wrapper))
    runner = SimpleNamespace(model=Wrapper(network()))
    with pytest.raises(
        ConfigError, match='changes the shapes of parameters, which Wrapper cannot follow; train on one'
    ):
        RankTruncationHook(0.1).before_train(runner)


def test_lower_ranks_under_a_wrapper_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('mmkerv.engine.checkpoint.match.is_model_wrapper', lambda m: isinstance(m, Wrapper))
    monkeypatch.setattr('mmkerv.engine.checkpoint.match.bare_network', lambda m: getattr(m, 'module', m))
    low = network()
    low.conv.truncate(0.0)
    runner = tiny_runner(tmp_path, network(), load_from='a.pth')
    runner.model = Wrapper(runner.model)
    hook, checkpoint = CheckpointMatchHook(), {'state_dict': low.state_dict()}
    hook.after_load_checkpoint(runner, checkpoint)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    with pytest.raises(CheckpointMismatchError, match=r'other ranks.*such as in conv\.core, and Wrapper cannot follow'):
        hook.after_load_checkpoint(runner, checkpoint)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (lambda: TinyModel(), 'the network has no LowRankConv that learns. Give it conv_cfg'),
        (lambda: network().requires_grad_(False), 'no LowRankConv that learns; conv shares or computes its kernels'),
    ],
    ids=['none', 'frozen'],
)
def test_a_network_without_low_rank_layers_is_refused(tmp_path, model, message):
    with pytest.raises(ConfigError, match=message):
        RankTruncationHook(0.1).before_train(SimpleNamespace(model=model()))


def test_an_optimizer_with_one_state_for_all_is_refused():
    model = network()
    wrapper = SimpleNamespace(optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ConfigError, match='the state of LBFGS belongs to all parameters together'):
        RankTruncationHook(0.1).before_train(SimpleNamespace(model=model, optim_wrapper=wrapper))


def test_shared_kernels_are_left_alone():
    model = nn.Sequential(*(LowRankConv2d(8, 8, 3, rank=4) for _ in range(3)))
    model[1].first = model[0].first
    optimizer = SimpleNamespace(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    hook, runner = (
        RankTruncationHook(0.9),
        SimpleNamespace(model=model, optim_wrapper=optimizer, hooks=[], train_loop=None),
    )
    hook.before_train(runner)
    hook._truncate(runner)
    assert model[0].ranks == model[1].ranks == (4, 4) and model[2].ranks != (4, 4)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(tolerance=1.0), 'tolerance must be < 1'),
        (dict(tolerance=-1.0), 'tolerance'),
        (dict(tolerance=0.1, interval=0), 'interval'),
    ],
    ids=['one', 'negative', 'interval'],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        RankTruncationHook(**arguments)


@pytest.mark.parametrize('decomposition', ['tucker2', 'cp4'])
def test_a_truncated_network_loads_and_folds(tmp_path, decomposition):
    pytest.importorskip('mmpretrain')
    cfg = classifier()
    cfg.model.backbone.conv_cfg = dict(type='mmkerv.LowRankConv', rank=0.5, decomposition=decomposition)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    layers = [m for m in model.modules() if isinstance(m, LowRankConv2d)]
    for layer in layers:
        layer.truncate(0.6)
    assert len(layers) > 5 and all(layer.ranks != layer.built_ranks for layer in layers if layer.kernel_size == (3, 3))
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, tmp_path / 'epoch_1.pth')
    result = fold_checkpoint(cfg, tmp_path / 'epoch_1.pth', tmp_path / 'deploy.pth', shape=SIZE)
    assert len(result.report.replaced) == len(layers) and result.error < 1e-4
    folded = MODELS.build(Config.fromfile(tmp_path / 'deploy.py').model).eval()
    folded.load_state_dict(torch.load(tmp_path / 'deploy.pth', weights_only=False)['state_dict'])
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        assert relative(folded.extract_feat(x)[0], model.extract_feat(x)[0]) < 1e-4


def test_epochs_are_refused_in_a_run_of_iterations(tmp_path):
    with pytest.raises(ConfigError, match='set by_epoch=False'):
        train(tmp_path, network(), train_cfg=dict(by_epoch=False, max_iters=2, val_interval=2))
