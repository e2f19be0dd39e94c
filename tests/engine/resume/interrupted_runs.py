"""Training runs with random numbers everywhere, their interruption, and the comparison of their results."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import nn
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mmkerv.engine import apply_patches, safe_load
from mmkerv.engine.config.prepare import TRAINING_HOOKS
from tests.engine.tiny_runner import RandomImages, TinyModel, tiny_runner

# Entries of a checkpoint that depend on the clock or the folder.
VARYING = ('time', 'memory', 'last_ckpt', 'best_ckpt', 'keep_ckpt_ids')


class Cut(BaseException):
    """Exception in place of a kill; it derives from BaseException so that no part of the run catches it."""


class Cutter(Hook):
    """Hook that interrupts a run at the n-th call of one of its methods."""

    priority = 'LOWEST'

    def __init__(self, where: str, count: int):
        self.left = count

        def cut(runner: Runner, *args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if not self.left:
                raise Cut

        setattr(self, where, cut)


class Sender(Hook):
    """Hook that sends a signal to the process at the n-th call of one of its methods."""

    priority = 'VERY_HIGH'

    def __init__(self, where: str, count: int, number: int, times: int = 1):
        self.left = count

        def send(runner, *args, **kwargs):
            self.left -= 1
            if not self.left:
                for _ in range(times):
                    os.kill(os.getpid(), number)

        setattr(self, where, send)


class NoisyImages(RandomImages):
    """Ten images augmented by random numbers of Python, numpy and torch; a third of the attempts fail."""

    def __init__(self):
        super().__init__(10)

    def __getitem__(self, index: int) -> dict:
        while random.random() < 1 / 3:
            index = np.random.randint(len(self))
        sample = super().__getitem__(index)
        return {**sample, 'inputs': sample['inputs'] + random.random() + np.random.rand() + torch.rand(3, 8, 8)}


class Refetched(BaseDataset):
    """Data set of mmengine that draws another index if its pipeline fails."""

    def __init__(self, length: int = 6):
        self.length = length
        super().__init__(lazy_init=True)
        # There are no annotations to load.
        self._fully_initialized = True

    def __len__(self):
        return self.length

    def prepare_data(self, idx):
        if random.random() < 0.5:
            return None
        return torch.tensor([idx, random.random(), np.random.rand(), torch.rand(1).item()], dtype=torch.float64)


class NoisyModel(TinyModel):
    """Network with dropout that also uses random numbers of numpy and Python in training."""

    def forward(self, inputs, target=None, mode='tensor'):
        if self.training:
            inputs = nn.functional.dropout(inputs * (random.random() + np.random.rand()))
        return super().forward(inputs, target, mode)


class DrawingHook(Hook):
    """Hook that draws random numbers outside the iterations and adds them to a metric."""

    def before_train(self, runner):
        random.random(), np.random.rand(), torch.rand(1)

    before_train_epoch = after_train_epoch = before_train

    def before_val(self, runner):
        self.noise = random.random() + np.random.rand() + torch.rand(1).item()

    def after_val_epoch(self, runner, metrics=None):
        metrics['mean'] += self.noise


def noisy_runner(
    folder: Path, by_epoch: bool = True, workers: int = 0, hooks: tuple = (), sampler: str = '', **kwargs: Any
) -> Runner:
    """Build a run of 4 epochs of 5 batches, or of 20 iterations, with a checkpoint and evaluation every 2 or 6."""
    apply_patches()
    every = 2 if by_epoch else 6
    loader = {
        'dataset': NoisyImages(),
        'batch_size': 2,
        'num_workers': workers,
        'persistent_workers': workers > 0,
        'sampler': {'type': sampler or ('DefaultSampler' if by_epoch else 'InfiniteSampler'), 'shuffle': True},
        'collate_fn': {'type': 'default_collate'},
    }
    custom = [{'type': 'EMAHook', 'momentum': 0.1}, DrawingHook(), *({'type': hook} for hook in TRAINING_HOOKS), *hooks]
    length = {'max_epochs': 4} if by_epoch else {'max_iters': 20}
    settings = {
        'train_dataloader': loader,
        'val_dataloader': {**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        'train_cfg': {'by_epoch': by_epoch, **length, 'val_interval': every},
        'default_hooks': {
            'checkpoint': {
                'type': 'CheckpointHook',
                **{'interval': every, 'by_epoch': by_epoch, 'max_keep_ckpts': 1, 'save_best': 'mean', 'rule': 'less'},
            }
        },
        'optim_wrapper': {'optimizer': {'type': 'AdamW', 'lr': 0.01}},
        'param_scheduler': [
            {'type': 'CosineAnnealingLR', 'T_max': 20, 'by_epoch': False},
            {'type': 'ReduceOnPlateauLR', 'monitor': 'mean', 'patience': 0},
        ],
        'custom_hooks': custom,
    }
    runner = tiny_runner(folder, model=kwargs.pop('model', None) or NoisyModel(), **{**settings, **kwargs})
    train = runner.train

    def train_and_end_workers() -> None:
        try:
            train()
        finally:
            for loop in (runner.train_loop, runner.val_loop):
                # Ended by the garbage collector, each would take 5 s.
                if isinstance(iterator := loop.dataloader._iterator, _MultiProcessingDataLoaderIter):
                    iterator._shutdown_workers()

    runner.train = train_and_end_workers
    return runner


def scramble() -> None:
    """Set the generators to a state that no run has."""
    random.seed(99), np.random.seed(99), torch.manual_seed(99)


def bits(folder: Path) -> dict[str, torch.Tensor | str]:
    """Return the values of a run's last checkpoint by name, without those of ``VARYING``."""
    checkpoint = safe_load((folder / 'last_checkpoint').read_text())
    values: dict[str, Any] = {}

    def collect(name: str, node: Any) -> None:
        if isinstance(node, HistoryBuffer):
            node = list(map(list, node.data))
        if isinstance(node, dict):
            for key, value in node.items():
                if not any(word in str(key) for word in VARYING):
                    collect(f'{name}.{key}', value)
        elif isinstance(node, (list, tuple)):
            for i, value in enumerate(node):
                collect(f'{name}.{i}', value)
        else:
            values[name] = node if isinstance(node, torch.Tensor) else repr(node)

    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'exact_resume', 'early_stopping'):
        collect(key, checkpoint.get(key, {}))
    collect('hub', checkpoint['message_hub']['log_scalars'])
    collect('info', checkpoint['message_hub']['runtime_info'].get('best_score'))
    collect('meta', {key: checkpoint['meta'][key] for key in ('epoch', 'iter', 'seed')})
    return values


def differing(first: dict, second: dict) -> list[str]:
    """Return the names of values that are not equal bit for bit."""
    same = {
        name
        for name in first.keys() & second.keys()
        if (
            torch.equal(first[name], second[name])
            if isinstance(first[name], torch.Tensor)
            else first[name] == second[name]
        )
    }
    return sorted((first.keys() | second.keys()) - same)
