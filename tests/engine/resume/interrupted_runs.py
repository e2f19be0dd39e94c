"""Runs in which everything draws, of which some are cut off and resumed, and what they end with."""

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

from mmkerv.engine import install_atomic_writes, install_safe_loading, safe_load
from mmkerv.engine.config.prepare import TRAINING_HOOKS
from tests.engine.tiny_runner import RandomImages, TinyModel, tiny_runner

# What follows the clock.
TIMES = ('time', 'memory', 'last_ckpt', 'best_ckpt', 'keep_ckpt_ids')


class Cut(BaseException):
    """Stands for a process that is killed: nothing of the run may catch it."""


class Cutter(Hook):
    """Cuts a run off after a number of calls of one kind."""

    priority = 'LOWEST'

    def __init__(self, where: str, count: int):
        self.left = count

        def cut(runner: Runner, *args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if not self.left:
                raise Cut

        setattr(self, where, cut)


class Sender(Hook):
    """Sends a signal to the process, or to its group, as a terminal does, after some calls of one kind."""

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
    """Ten images, augmented by what python, numpy and torch draw; a third of the tries fail, as pipelines may."""

    def __init__(self):
        super().__init__(10)

    def __getitem__(self, index: int) -> dict:
        while random.random() < 1 / 3:
            index = np.random.randint(len(self))
        found = super().__getitem__(index)
        return {**found, 'inputs': found['inputs'] + random.random() + np.random.rand() + torch.rand(3, 8, 8)}


class Refetched(BaseDataset):
    """mmengine's data set: a pipeline that fails has another index drawn."""

    def __init__(self, length: int = 6):
        self.length = length
        super().__init__(lazy_init=True)
        # There are no annotations to read.
        self._fully_initialized = True

    def __len__(self):
        return self.length

    def prepare_data(self, idx):
        if random.random() < 0.5:
            return None
        return torch.tensor([idx, random.random(), np.random.rand(), torch.rand(1).item()], dtype=torch.float64)


class NoisyModel(TinyModel):
    """A network with dropout, which also draws from numpy and python in training."""

    def forward(self, inputs, target=None, mode='tensor'):
        if self.training:
            inputs = nn.functional.dropout(inputs * (random.random() + np.random.rand()))
        return super().forward(inputs, target, mode)


class DrawingHook(Hook):
    """Draws where nothing else does, and makes a metric of what it draws."""

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
    """Build a run of 4 epochs of 5 batches, or 20 iterations, with a checkpoint and an evaluation every 2 or 6."""
    install_atomic_writes()
    install_safe_loading()
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
                # Left to the garbage collection, each takes 5 s to end.
                if isinstance(iterator := loop.dataloader._iterator, _MultiProcessingDataLoaderIter):
                    iterator._shutdown_workers()

    runner.train = train_and_end_workers
    return runner


def scramble() -> None:
    """Leave the generators as no run does."""
    random.seed(99), np.random.seed(99), torch.manual_seed(99)


def bits(folder: Path) -> dict[str, torch.Tensor | str]:
    """Return all that the last checkpoint of a run holds, by name, without what follows the clock."""
    checkpoint = safe_load((folder / 'last_checkpoint').read_text())
    found: dict[str, Any] = {}

    def collect(name: str, node: Any) -> None:
        if isinstance(node, HistoryBuffer):
            node = list(map(list, node.data))
        if isinstance(node, dict):
            for key, value in node.items():
                if not any(word in str(key) for word in TIMES):
                    collect(f'{name}.{key}', value)
        elif isinstance(node, (list, tuple)):
            for i, value in enumerate(node):
                collect(f'{name}.{i}', value)
        else:
            found[name] = node if isinstance(node, torch.Tensor) else repr(node)

    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'exact_resume', 'early_stopping'):
        collect(key, checkpoint.get(key, {}))
    collect('hub', checkpoint['message_hub']['log_scalars'])
    collect('info', checkpoint['message_hub']['runtime_info'].get('best_score'))
    collect('meta', {key: checkpoint['meta'][key] for key in ('epoch', 'iter', 'seed')})
    return found


def differing(first: dict, second: dict) -> list[str]:
    """Return the names of what is not the same, bit for bit."""
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
