import signal

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader, IterableDataset

from mmkerv.engine import safe_load
from mmkerv.engine.config.prepare import TRAINING_HOOKS, Config
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
    """Without asking compilers for their versions, which takes longer than a run."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


def resumed(folder, **kwargs):
    scramble()
    last = latest_checkpoint(Config(dict(work_dir=str(folder))))
    noisy_runner(folder, resume=True, load_from=last, **kwargs).train()
    return bits(folder)


def cut(folder, where, count, **kwargs):
    with pytest.raises(Cut):
        noisy_runner(folder, hooks=(Cutter(where, count),), **kwargs).train()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """What runs end with that nothing cut off, by their settings."""
    kept = {}

    def run(**kwargs):
        key = repr(kwargs)
        if key not in kept:
            folder = tmp_path_factory.mktemp('whole')
            noisy_runner(folder, **kwargs).train()
            kept[key] = bits(folder)
        return kept[key]

    return run


PLACES = [
    ('before_train_iter', 3),
    ('after_train_epoch', 2),
    ('before_train_epoch', 3),
    ('before_val_iter', 1),
    ('after_val_epoch', 1),
    ('after_train_iter', 13),
]


@pytest.mark.parametrize(('where', 'count'), PLACES)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_resumed_run_ends_with_the_bits_of_one_that_was_not_cut(tmp_path, whole, by_epoch, where, count):
    if not by_epoch and 'epoch' in where and 'val' not in where:
        where, count = 'after_train_iter', count
    cut(tmp_path, where, count, by_epoch=by_epoch)
    assert not differing(resumed(tmp_path, by_epoch=by_epoch), whole(by_epoch=by_epoch))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_so_it_does_with_workers_which_change_nothing(tmp_path, whole, by_epoch):
    cut(tmp_path, 'after_train_iter', 13, by_epoch=by_epoch, workers=2)
    names = differing(resumed(tmp_path, by_epoch=by_epoch, workers=2), whole(by_epoch=by_epoch))
    # A checkpoint of an evaluation has the states that loading leaves in the main process, if that is where it is done.
    assert not [name for name in names if '.states.' not in name]


class Better(Hook):
    """Makes every evaluation the best: the last checkpoint is written again in it."""

    priority = 'VERY_HIGH'

    def after_val_epoch(self, runner, metrics=None):
        metrics['mean'] = -float(runner.iter)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_states_that_an_evaluation_leaves(tmp_path, by_epoch):
    """Workers that persist are started once in a run, and once more in one that is resumed."""
    settings = dict(by_epoch=by_epoch, workers=2)
    noisy_runner(tmp_path / 'whole', hooks=(Better(),), **settings).train()
    # The next evaluation is the first after it, and the last.
    with pytest.raises(Cut):
        hooks = (Better(), Cutter('after_train_iter', 14))
        noisy_runner(tmp_path / 'cut', hooks=hooks, **settings).train()
    assert not differing(resumed(tmp_path / 'cut', hooks=(Better(),), **settings), bits(tmp_path / 'whole'))


VARIANTS = {
    'no seed in the config': dict(randomness=dict(seed=None)),
    'seeds that differ between ranks': dict(randomness=dict(seed=3, diff_rank_seed=True)),
    'gradients that wait for more': dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=3)),
    'bfloat16': dict(optim_wrapper=dict(type='mmkerv.CpuAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1))),
}


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('name', VARIANTS)
def test_variants(tmp_path, name, by_epoch):
    """The whole run is the first part of the one that is cut: what has no seed cannot be run twice."""
    settings = dict(by_epoch=by_epoch, **VARIANTS[name])
    folder = tmp_path / 'whole'
    every = dict(type='CheckpointHook', interval=1 if by_epoch else 4, by_epoch=by_epoch)
    noisy_runner(folder, default_hooks=dict(checkpoint=every), **settings).train()
    first = folder / ('epoch_1.pth' if by_epoch else 'iter_4.pth')
    scramble()
    noisy_runner(
        tmp_path / 'resumed', default_hooks=dict(checkpoint=every), resume=True, load_from=str(first), **settings
    ).train()
    assert not differing(bits(tmp_path / 'resumed'), bits(folder))


def test_iterations_over_a_sampler_that_ends(tmp_path, whole):
    settings = dict(by_epoch=False, sampler='DefaultSampler')
    cut(tmp_path, 'after_train_iter', 14, **settings)
    assert not differing(resumed(tmp_path, **settings), whole(**settings))


@pytest.mark.parametrize('workers', [{}, dict(num_workers=2, persistent_workers=True)], ids=['none', 'two'])
def test_order_that_torchs_generator_draws(tmp_path, workers):
    """A loader that was built by hand draws the order of an epoch when the epoch begins."""
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False))

    def settings():
        return dict(
            default_hooks=hooks, train_dataloader=DataLoader(NoisyImages(), batch_size=2, shuffle=True, **workers)
        )

    noisy_runner(tmp_path / 'whole', **settings()).train()
    cut(tmp_path / 'cut', 'after_train_iter', 8, **settings())
    assert not differing(resumed(tmp_path / 'cut', **settings()), bits(tmp_path / 'whole'))


class Stream(IterableDataset):
    """Images without indices."""

    def __len__(self):
        return 10

    def __iter__(self):
        return map(NoisyImages().__getitem__, range(10))


class States(Hook):
    """Keeps the state of torch's generator at the start of each iteration, after ExactResumeHook has had its turn."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, *args, **kwargs):
        self.seen.append(torch.get_rng_state())


def test_stream_without_indices_is_left_alone(tmp_path, caplog):
    """Its checkpoints store no position, and it takes one of a run that had one; nothing seeds the iterations."""
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
def test_checkpoints_in_the_middle_of_an_epoch(tmp_path, whole, workers):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False))
    # After 15 iterations an epoch is over, and its end has not been told to the hooks yet.
    for count in (4, 10, 15):
        folder = tmp_path / str(count)
        cut(folder, 'after_train_iter', count, default_hooks=hooks)
        assert not differing(resumed(folder, default_hooks=hooks, workers=workers), whole(default_hooks=hooks))


@pytest.mark.parametrize(
    ('where', 'count'),
    # At iteration 41 the last checkpoint is that of epoch 8; it is the best, and written again in its evaluation.
    [('before_val_iter', 21), ('after_train_iter', 18), ('before_train_iter', 41), ('after_val', 8), ('after_val', 9)],
)
def test_early_stopping_waits_as_long(tmp_path, where, count):
    """The metric of the test is noise: how long it has not been better is as good as drawn."""

    def settings():
        stop = dict(type='EarlyStoppingHook', monitor='mean', rule='less', patience=4)
        hooks = [{'type': 'EMAHook'}, DrawingHook(), stop, *({'type': name} for name in TRAINING_HOOKS)]
        writing = dict(type='CheckpointHook', interval=2, save_best='mean', rule='less')
        length = dict(by_epoch=True, max_epochs=20, val_interval=1)
        chosen = dict(custom_hooks=hooks, train_cfg=length, default_hooks=dict(checkpoint=writing))
        return dict(**chosen, randomness=dict(seed=4))

    runner = noisy_runner(tmp_path / 'whole', **settings())
    runner.train()
    assert 6 < runner.epoch < 20
    cutting = settings()
    if where == 'after_val':
        cutting['custom_hooks'].insert(0, Sender(where, count, signal.SIGTERM))
    else:
        cutting['custom_hooks'].append(Cutter(where, count))
    with pytest.raises((Cut, SystemExit)):
        noisy_runner(tmp_path / 'cut', **cutting).train()
    assert not differing(resumed(tmp_path / 'cut', **settings()), bits(tmp_path / 'whole'))
