import signal

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, IterableDataset

from mmkerv.engine import safe_load
from mmkerv.engine.config.prepare import TRAINING_HOOKS
from mmkerv.engine.resume.exact_resume_hook import ITERATION
from mmkerv.engine.resume.latest_checkpoint import latest_checkpoint
from mmkerv.engine.resume.random_state import seed_generators
from tests.engine.resume.interrupted_runs import (
    Cut,
    Cutter,
    DrawingHook,
    NoisyImages,
    Sender,
    bits,
    differing,
    noisy_runner,
    scramble,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Skip collecting the environment, which takes longer than a run."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


def resumed(folder, **kwargs):
    scramble()
    last = latest_checkpoint(Config(dict(work_dir=str(folder))))
    noisy_runner(folder, resume=True, load_from=last, **kwargs).train()
    return bits(folder)


def interrupt(folder, where, count, **kwargs):
    with pytest.raises(Cut):
        noisy_runner(folder, hooks=(Cutter(where, count),), **kwargs).train()


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """Function that returns the values of an uninterrupted run with the given settings."""
    results = {}

    def run(**kwargs):
        key = repr(kwargs)
        if key not in results:
            folder = tmp_path_factory.mktemp('uninterrupted')
            noisy_runner(folder, **kwargs).train()
            results[key] = bits(folder)
        return results[key]

    return run


INTERRUPTIONS = [
    ('before_train_iter', 3),
    ('after_train_epoch', 2),
    ('before_train_epoch', 3),
    ('before_val_iter', 1),
    ('after_val_epoch', 1),
    ('after_train_iter', 13),
]


@pytest.mark.parametrize(('where', 'count'), INTERRUPTIONS)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, uninterrupted, by_epoch, where, count):
    if not by_epoch and 'epoch' in where and 'val' not in where:
        where, count = 'after_train_iter', count
    interrupt(tmp_path, where, count, by_epoch=by_epoch)
    assert not differing(resumed(tmp_path, by_epoch=by_epoch), uninterrupted(by_epoch=by_epoch))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_resumed_run_with_workers_equals_one_without(tmp_path, uninterrupted, by_epoch):
    interrupt(tmp_path, 'after_train_iter', 13, by_epoch=by_epoch, workers=2)
    names = differing(resumed(tmp_path, by_epoch=by_epoch, workers=2), uninterrupted(by_epoch=by_epoch))
    # Without workers, loading in an evaluation changes the states of the main process, which the checkpoint stores.
    assert not [name for name in names if '.states.' not in name]


class Better(Hook):
    """Hook that makes every evaluation the best, so that a checkpoint is written in it."""

    priority = 'VERY_HIGH'

    def after_val_epoch(self, runner, metrics=None):
        metrics['mean'] = -float(runner.iter)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_states_after_an_evaluation_are_restored(tmp_path, by_epoch):
    """Persistent workers are started once in a run, and again in a resumed one."""
    settings = dict(by_epoch=by_epoch, workers=2)
    noisy_runner(tmp_path / 'uninterrupted', hooks=(Better(),), **settings).train()
    # After the interruption one more evaluation follows.
    with pytest.raises(Cut):
        hooks = (Better(), Cutter('after_train_iter', 14))
        noisy_runner(tmp_path / 'interrupted', hooks=hooks, **settings).train()
    assert not differing(
        resumed(tmp_path / 'interrupted', hooks=(Better(),), **settings), bits(tmp_path / 'uninterrupted')
    )


VARIANTS = {
    'no seed in the config': dict(randomness=dict(seed=None)),
    'different seeds of ranks': dict(randomness=dict(seed=3, diff_rank_seed=True)),
    'accumulated gradients': dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=3)),
    'bfloat16': dict(optim_wrapper=dict(type='mmkerv.CpuAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1))),
}


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('name', VARIANTS)
def test_run_with_other_settings_is_resumed_exactly(tmp_path, name, by_epoch):
    """A run without a seed cannot be repeated, so its own first checkpoint is resumed."""
    settings = dict(by_epoch=by_epoch, **VARIANTS[name])
    folder = tmp_path / 'uninterrupted'
    every = dict(type='CheckpointHook', interval=1 if by_epoch else 4, by_epoch=by_epoch)
    noisy_runner(folder, default_hooks=dict(checkpoint=every), **settings).train()
    first = folder / ('epoch_1.pth' if by_epoch else 'iter_4.pth')
    scramble()
    noisy_runner(
        tmp_path / 'resumed', default_hooks=dict(checkpoint=every), resume=True, load_from=str(first), **settings
    ).train()
    assert not differing(bits(tmp_path / 'resumed'), bits(folder))


@pytest.mark.parametrize(('processes', 'iteration'), [(1, 4), (2, 4), (2, 3)])
def test_accumulated_gradients_of_other_processes_are_said_to_be_lost(tmp_path, monkeypatch, processes, iteration):
    every = dict(type='CheckpointHook', interval=1, by_epoch=False)
    settings = dict(by_epoch=False, default_hooks=dict(checkpoint=every), **VARIANTS['accumulated gradients'])
    noisy_runner(tmp_path / 'first', **settings).train()
    monkeypatch.setattr('mmkerv.engine.resume.exact_resume_hook.get_world_size', lambda: processes)
    last = str(tmp_path / 'first' / f'iter_{iteration}.pth')
    noisy_runner(tmp_path / 'second', resume=True, load_from=last, **settings).train()
    text = next((tmp_path / 'second').glob('*/*.log')).read_text()
    # After three iterations there was an update.
    assert ('accumulated gradients of the first process alone' in text) == (processes == 2 and iteration == 4)


def test_iterations_over_a_finite_sampler_are_resumed_exactly(tmp_path, uninterrupted):
    settings = dict(by_epoch=False, sampler='DefaultSampler')
    interrupt(tmp_path, 'after_train_iter', 14, **settings)
    assert not differing(resumed(tmp_path, **settings), uninterrupted(**settings))


@pytest.mark.parametrize('workers', [{}, dict(num_workers=2, persistent_workers=True)], ids=['none', 'two'])
def test_order_drawn_by_torchs_generator_is_restored(tmp_path, workers):
    """A loader that was built by hand draws the order at the start of an epoch."""
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False))

    def settings():
        return dict(
            default_hooks=hooks, train_dataloader=DataLoader(NoisyImages(), batch_size=2, shuffle=True, **workers)
        )

    noisy_runner(tmp_path / 'uninterrupted', **settings()).train()
    interrupt(tmp_path / 'interrupted', 'after_train_iter', 8, **settings())
    assert not differing(resumed(tmp_path / 'interrupted', **settings()), bits(tmp_path / 'uninterrupted'))


class Stream(IterableDataset):
    """Data set of images without indices."""

    def __len__(self):
        return 10

    def __iter__(self):
        return map(NoisyImages().__getitem__, range(10))


class States(Hook):
    """Hook that records torch's state at the start of each iteration, after ExactResumeHook."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, *args, **kwargs):
        self.seen.append(torch.get_rng_state())


def test_data_set_without_indices_is_not_seeded(tmp_path, caplog):
    """Its checkpoints have no position, and one of a run that has a position can be resumed."""
    noisy_runner(tmp_path / 'first').train()
    states = States()
    runner = noisy_runner(
        tmp_path / 'second',
        hooks=(states,),
        train_dataloader=DataLoader(Stream(), batch_size=1),
        train_cfg=dict(by_epoch=True, max_epochs=5),
        resume=True,
        load_from=str(tmp_path / 'first' / 'epoch_4.pth'),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    runner.train()
    assert runner.iter == 30
    assert 'exact_resume' not in safe_load(tmp_path / 'second' / 'epoch_5.pth')
    seed_generators(ITERATION, runner.seed, 20)
    assert not torch.equal(states.seen[0], torch.get_rng_state())


@pytest.mark.parametrize('workers', [0, 2])
def test_checkpoint_within_an_epoch_is_resumed_exactly(tmp_path, uninterrupted, workers):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False))
    # After 15 iterations an epoch has ended, and after_train_epoch has not been called yet.
    for count in (4, 10, 15):
        folder = tmp_path / str(count)
        interrupt(folder, 'after_train_iter', count, default_hooks=hooks)
        assert not differing(resumed(folder, default_hooks=hooks, workers=workers), uninterrupted(default_hooks=hooks))


@pytest.mark.parametrize(
    ('where', 'count'),
    # At iteration 41 the last checkpoint is that of epoch 8, the best, which is written again after its evaluation.
    [('before_val_iter', 21), ('after_train_iter', 18), ('before_train_iter', 41), ('after_val', 8), ('after_val', 9)],
)
def test_early_stopping_is_restored(tmp_path, where, count):
    """The metric is noise, so the number of epochs without improvement is random."""

    def settings():
        stop = dict(type='EarlyStoppingHook', monitor='mean', rule='less', patience=4)
        hooks = [{'type': 'EMAHook'}, DrawingHook(), stop, *({'type': name} for name in TRAINING_HOOKS)]
        writing = dict(type='CheckpointHook', interval=2, save_best='mean', rule='less')
        length = dict(by_epoch=True, max_epochs=20, val_interval=1)
        chosen = dict(custom_hooks=hooks, train_cfg=length, default_hooks=dict(checkpoint=writing))
        return dict(**chosen, randomness=dict(seed=4))

    runner = noisy_runner(tmp_path / 'uninterrupted', **settings())
    runner.train()
    assert 6 < runner.epoch < 20
    interrupting = settings()
    if where == 'after_val':
        interrupting['custom_hooks'].insert(0, Sender(where, count, signal.SIGTERM))
    else:
        interrupting['custom_hooks'].append(Cutter(where, count))
    with pytest.raises((Cut, SystemExit)):
        noisy_runner(tmp_path / 'interrupted', **interrupting).train()
    assert not differing(resumed(tmp_path / 'interrupted', **settings()), bits(tmp_path / 'uninterrupted'))
