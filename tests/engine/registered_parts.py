"""Parts of configs for interrupted runs, registered on import: noisy, slow enough to be killed, with phases."""

import errno
import mmap
import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS

from tests.engine.resume.interrupted_runs import NoisyImages, NoisyModel
from tests.engine.tiny_runner import Predictions

PHASES = ('start and end', 'data loading', 'forward and step', 'checkpoint writing', 'evaluation')

CONFIG = """
by_epoch = {by_epoch}
custom_imports = dict(imports=['tests.engine.registered_parts'])
default_scope = 'mmengine'
every = 1 if by_epoch else 3
loader = dict(dataset=dict(type='SlowImages'), batch_size=2, num_workers={workers}, persistent_workers={workers} > 0,
              collate_fn=dict(type='default_collate'))
train_dataloader = dict(sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True), **loader)
val_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader)
del loader
train_cfg = dict(by_epoch=True, max_epochs=6) if by_epoch else dict(by_epoch=False, max_iters=30)
train_cfg['val_interval'] = every
val_cfg = dict()
val_evaluator = dict(type='Predictions')
model = dict(type='NoisyModel')
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01))
param_scheduler = dict(type='CosineAnnealingLR', T_max=30, by_epoch=False)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=every, by_epoch=by_epoch, max_keep_ckpts=2,
                                     save_best='mean', rule='less'))
custom_hooks = [dict(type='EMAHook', momentum=0.1), dict(type='PhaseHook')]
randomness = dict(seed=1)
"""


class SlowImages(NoisyImages):
    """Data set that loads slowly enough to be killed while loading."""

    def __getitem__(self, index: int) -> dict:
        time.sleep(0.003)
        return super().__getitem__(index)


class UnreadableImages(NoisyImages):
    """Data set in a folder that may not be read."""

    def __getitem__(self, index: int) -> dict:
        raise PermissionError(errno.EACCES, 'Permission denied', f'/images/{index}.jpg')


class Phases:
    """Phase of a process and number of entries into each phase, in memory shared with another process."""

    def __init__(self):
        self.shared = mmap.mmap(-1, 1 + len(PHASES))

    def enter(self, phase: int) -> int:
        before, self.shared[1 + phase] = self.shared[0], min(255, self.shared[1 + phase] + 1)
        self.shared[0] = phase
        return before

    def clear(self) -> None:
        self.shared[:] = bytes(len(self.shared))


PHASE = Phases()


class PhaseHook(Hook):
    """Hook that records the phase of a run."""

    def before_train_epoch(self, runner: Any) -> None:
        PHASE.enter(1)

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        PHASE.enter(2)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        PHASE.enter(1)

    def before_val(self, runner: Any) -> None:
        PHASE.enter(4)

    def after_val(self, runner: Any) -> None:
        PHASE.enter(1)

    def after_train(self, runner: Any) -> None:
        PHASE.enter(0)


for _registry, _parts in {
    MODELS: (NoisyModel,),
    DATASETS: (SlowImages, UnreadableImages),
    METRICS: (Predictions,),
    HOOKS: (PhaseHook,),
}.items():
    for _part in _parts:
        _registry.register_module(module=_part, force=True)
