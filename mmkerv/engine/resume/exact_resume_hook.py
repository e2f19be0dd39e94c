"""``ExactResumeHook``: a run that was interrupted and resumed ends with the bits of one that was not."""

import logging
from numbers import Real
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmkerv.engine.resume.random_state import read_states, seed_generators, set_states
from mmkerv.engine.resume.sample_position import BatchStream, PlacedBatches, SeededDataset, place_batches
from mmkerv.registry import HOOKS
from mmkerv.utils import log

KEY = 'exact_resume'
# The first number of a key says what is seeded.
EPOCH, ITERATION = 2, 3


@HOOKS.register_module()
class ExactResumeHook(Hook):
    r"""Store the position in the data and the random states in each checkpoint, and go on from there.

    The state of python's, numpy's and torch's generators (on every device) is a function of the position: that of
    :math:`(seed, epoch)` where an epoch begins, of :math:`(seed, iteration)` where an iteration begins, and of
    :math:`(seed, epoch, place, rank)` where a sample is loaded (:class:`SeededDataset`). So every rank has its own
    back, an epoch that is resumed in its middle is shuffled as it was, and neither evaluation nor ``num_workers``
    changes what is drawn. For an evaluation that follows the checkpoint, which :class:`PendingEvaluationHook` makes up for,
    the states themselves are stored, of the first rank. Gradients that wait for more (``accumulative_counts``) are
    stored too.

    mmengine's own part is the seed, the network, optimizer, loss scale, schedulers and message hub. What it does not
    hold and nobody can know is lost: caches of a data pipeline (CachedMosaic), generators that a hook owns, and the
    buffers of all ranks but the first, where they differ (BN without SyncBN).

    A run over iterations draws from one endless iterator; resuming it loads nothing of what it leaves out.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.ExactResumeHook')]
    """

    # Before all hooks that draw.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._stored: dict[str, Any] | None = None
        self._batches: PlacedBatches | None = None
        self._metrics: dict[str, Any] | None = None
        self._states: dict[str, Any] | None = None
        self._epoch = self._done = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what the checkpoint says, if training goes on from it."""
        if not runner._resume:
            return
        self._stored = checkpoint.get(KEY)
        if self._stored is None:
            log(
                'mmkerv: the checkpoint is of a run without ExactResumeHook: training goes on from its weights and '
                'not with the bits of that run',
                logging.WARNING,
            )

    def before_train(self, runner: Runner) -> None:
        """Prepare the data loader, and set back what was stored."""
        loop, stored = runner.train_loop, self._stored or {}
        endless = isinstance(loop, IterBasedTrainLoop)
        if not endless and not isinstance(loop, EpochBasedTrainLoop):
            log(f'mmkerv: {type(loop).__name__} is not known to ExactResumeHook, which does nothing', logging.WARNING)
            return
        if endless:
            _restart_sampler(runner, loop)
        if 'sampler_seed' in stored and _sampler_seed(loop.dataloader) is not None:
            _sampler(loop.dataloader).seed = stored['sampler_seed']
        self._batches = place_batches(loop.dataloader, runner.seed, endless)
        if self._batches is None:
            log('mmkerv: the data have no indices: ExactResumeHook cannot tell where to go on in them', logging.WARNING)
            return
        if runner.val_loop is not None:
            # Workers that persist draw on from one evaluation to the next.
            place_batches(runner.val_loop.dataloader, runner.seed, endless=False)
        if endless:
            # The loop of mmengine 0.10.7 loads what it leaves out.
            skips = 0 if hasattr(loop.dataloader_iterator, 'skip_iter') else runner.iter
            loop.dataloader_iterator = BatchStream(loop.dataloader, skips)
        self._epoch, self._done = runner.epoch, self._resumed_batch(runner, endless)
        self._metrics, self._states = stored.get('metrics'), stored.get('states')
        for name, parameter in _bare(runner.model).named_parameters():
            if name in stored.get('gradients', {}):
                parameter.grad = stored['gradients'][name].to(parameter)

    def _resumed_batch(self, runner: Runner, endless: bool) -> int:
        if endless:
            return runner.iter
        stored = self._stored or {}
        batch, now = stored.get('batch', 0), _geometry(runner.train_loop.dataloader)
        if batch and stored['geometry'] != now:
            log(
                f'mmkerv: epoch {runner.epoch + 1} begins anew: the checkpoint is of its middle, and [batches, samples '
                f'of a batch, processes] were {stored["geometry"]} and are {now}',
                logging.WARNING,
            )
            return 0
        return batch

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the epoch, and begin it where the checkpoint has left it."""
        if self._batches is None:
            return
        if runner.epoch != self._epoch:
            self._epoch, self._done = runner.epoch, 0
        self._batches.epoch, self._batches.start = self._epoch, self._done
        seed_generators(EPOCH, runner.seed, self._epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the iteration."""
        if self._batches is None:
            return
        self._metrics = self._states = None
        seed_generators(ITERATION, runner.seed, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count the batch."""
        self._done += 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Set the generators back, if all batches of the epoch had been done before the run was interrupted."""
        if self._states is not None and is_main_process():
            set_states(self._states)
        self._states = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remember that the network of this position is evaluated."""
        # The hooks between this one and CheckpointHook may still change it.
        self._metrics = {} if metrics is None else metrics

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the position and the states."""
        if self._batches is None:
            return
        loader = runner.train_loop.dataloader
        same = checkpoint['meta']['epoch'] == self._epoch
        checkpoint[KEY] = {
            'batch': self._done if same else 0,
            'geometry': _geometry(loader),
            'metrics': _numbers(self._metrics),
            'states': read_states(),
            'gradients': _waiting_gradients(runner),
        }
        if (seed := _sampler_seed(loader)) is not None:
            checkpoint[KEY]['sampler_seed'] = seed


def _restart_sampler(runner: Runner, loop: IterBasedTrainLoop) -> None:
    """Take back what the iterator of mmengine 0.10.7, which is there before the first batch, has drawn already."""
    iterator, config = getattr(loop.dataloader_iterator, '_iterator', None), runner._train_dataloader
    if iterator is None or not loop.dataloader.num_workers or not isinstance(config, dict):
        return
    seed = _sampler_seed(loop.dataloader)
    shared = {**config, 'dataset': SeededDataset(loop.dataloader.dataset, runner.seed)}
    different = runner._randomness_cfg.get('diff_rank_seed', False)
    loop.dataloader = runner.build_dataloader(shared, seed=runner.seed, diff_rank_seed=different)
    if seed is not None:
        _sampler(loop.dataloader).seed = seed


def _sampler(loader: DataLoader) -> Any:
    return getattr(loader.batch_sampler, 'sampler', None)


def _sampler_seed(loader: DataLoader) -> int | None:
    seed = getattr(_sampler(loader), 'seed', None)
    return seed if isinstance(seed, int) else None


def _geometry(loader: DataLoader) -> list[int | None]:
    return [len(loader), getattr(loader.batch_sampler, 'batch_size', None), get_world_size()]


def _numbers(metrics: dict[str, Any] | None) -> dict[str, float] | None:
    return None if metrics is None else {k: float(v) for k, v in metrics.items() if isinstance(v, Real)}


def _waiting_gradients(runner: Runner) -> dict[str, torch.Tensor]:
    wrapper = runner.optim_wrapper
    if getattr(wrapper, '_accumulative_counts', 1) == 1 or wrapper.should_update():
        return {}
    parameters = _bare(runner.model).named_parameters()
    return {name: p.grad.detach().cpu().clone() for name, p in parameters if p.grad is not None}


def _bare(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
