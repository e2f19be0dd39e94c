"""``ExactResumeHook``: an interrupted and resumed run ends bit for bit as an uninterrupted one."""

import logging
from numbers import Real
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmkerv.engine.resume.random_state import read_states, seed_generators, set_states
from mmkerv.engine.resume.sample_position import BatchStream, PositionedBatches, SeededDataset, track_positions
from mmkerv.registry import HOOKS
from mmkerv.utils import log, unwrapped

# Key of the state in a checkpoint.
EXACT_RESUME_KEY = 'exact_resume'
# First number of a seed key, by what is seeded; SAMPLE of sample_position is 1.
EPOCH, ITERATION = 2, 3


@HOOKS.register_module()
class ExactResumeHook(Hook):
    r"""Hook that stores the position in the data and the random states in each checkpoint, and restores them.

    The generators of Python, numpy and torch (on every device) are seeded by the position: by :math:`(seed, epoch)`
    at the start of an epoch, by :math:`(seed, iteration)` at the start of an iteration, and by
    :math:`(seed, epoch, position, rank)` before a sample is loaded (:class:`SeededDataset`). So every rank gets its
    states back, an epoch that is resumed in the middle keeps its order, and neither evaluation nor ``num_workers``
    changes what is drawn. For an evaluation right after the checkpoint, which :class:`PendingEvaluationHook` runs on
    resume, the states of the first rank are stored. Accumulated gradients (``accumulative_counts``) are stored too, but
    of the first rank alone: of several processes that resume between two updates all get these, which a warning says.

    mmengine stores the seed, network, optimizer, loss scale, schedulers and message hub. Not restored are caches of a
    data pipeline (CachedMosaic), generators that a hook owns, and the buffers of all ranks but the first if they
    differ (BN without SyncBN).

    An iteration-based run draws from one endless iterator; on resume the skipped samples are not loaded.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.ExactResumeHook')]
    """

    # Before all hooks that use random numbers.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._stored: dict[str, Any] | None = None
        self._batches: PositionedBatches | None = None
        self._metrics: dict[str, Any] | None = None
        self._states: dict[str, Any] | None = None
        self._epoch = self._done = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the stored state if the run is resumed."""
        if not runner._resume:
            return
        self._stored = checkpoint.get(EXACT_RESUME_KEY)
        if self._stored is None:
            log(
                'mmkerv: the checkpoint is of a run without ExactResumeHook: training is resumed, but not bit for bit',
                logging.WARNING,
            )

    def before_train(self, runner: Runner) -> None:
        """Prepare the data loaders and restore the stored state."""
        loop, stored = runner.train_loop, self._stored or {}
        endless = isinstance(loop, IterBasedTrainLoop)
        if not endless and not isinstance(loop, EpochBasedTrainLoop):
            log(f'mmkerv: ExactResumeHook does not support {type(loop).__name__} and does nothing', logging.WARNING)
            return
        if endless:
            _restart_sampler(runner, loop)
        if 'sampler_seed' in stored and _sampler_seed(loop.dataloader) is not None:
            _sampler(loop.dataloader).seed = stored['sampler_seed']
        self._batches = track_positions(loop.dataloader, runner.seed, endless)
        if self._batches is None:
            log(
                'mmkerv: the data set has no indices: ExactResumeHook cannot restore the position in it',
                logging.WARNING,
            )
            return
        if runner.val_loop is not None:
            # Persistent workers keep their generators from one evaluation to the next.
            track_positions(runner.val_loop.dataloader, runner.seed, endless=False)
        if endless:
            # The loop of mmengine 0.10.7 loads the batches that it skips.
            skips = 0 if hasattr(loop.dataloader_iterator, 'skip_iter') else runner.iter
            loop.dataloader_iterator = BatchStream(loop.dataloader, skips)
        self._epoch, self._done = runner.epoch, self._resumed_batch(runner, endless)
        self._metrics, self._states = stored.get('metrics'), stored.get('states')
        if stored.get('gradients') and get_world_size() > 1:
            # Only the first process writes a checkpoint, and the others cannot give it theirs there.
            log(
                'mmkerv: the checkpoint was written between two updates (accumulative_counts) and holds the '
                'accumulated gradients of the first process alone: all processes get these, and the next update is '
                'not that of an uninterrupted run',
                logging.WARNING,
            )
        for name, parameter in unwrapped(runner.model).named_parameters():
            if name in stored.get('gradients', {}):
                parameter.grad = stored['gradients'][name].to(parameter)

    def _resumed_batch(self, runner: Runner, endless: bool) -> int:
        if endless:
            return runner.iter
        stored = self._stored or {}
        batch, now = stored.get('batch', 0), _geometry(runner.train_loop.dataloader)
        if batch and stored['geometry'] != now:
            log(
                f'mmkerv: epoch {runner.epoch + 1} starts again from its first batch: the checkpoint was written in '
                f'it with [batches, batch size, processes] = {stored["geometry"]}, and these are now {now}',
                logging.WARNING,
            )
            return 0
        return batch

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the epoch, and start it at the stored batch."""
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
        """Restore the generators if the run was interrupted after the last batch of this epoch."""
        if self._states is not None and is_main_process():
            set_states(self._states)
        self._states = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remember that the network has been evaluated at this position."""
        # Not a copy: hooks between this one and CheckpointHook may still change the metrics.
        self._metrics = {} if metrics is None else metrics

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the position and the random states."""
        if self._batches is None:
            return
        loader = runner.train_loop.dataloader
        same_epoch = checkpoint['meta']['epoch'] == self._epoch
        checkpoint[EXACT_RESUME_KEY] = {
            'batch': self._done if same_epoch else 0,
            'geometry': _geometry(loader),
            'metrics': _numeric(self._metrics),
            'states': read_states(),
            'gradients': _accumulated_gradients(runner),
        }
        if (seed := _sampler_seed(loader)) is not None:
            checkpoint[EXACT_RESUME_KEY]['sampler_seed'] = seed


def _restart_sampler(runner: Runner, loop: IterBasedTrainLoop) -> None:
    """Build the data loader again, because the iterator of mmengine 0.10.7 has drawn from its sampler already."""
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


def _numeric(metrics: dict[str, Any] | None) -> dict[str, float] | None:
    return None if metrics is None else {k: float(v) for k, v in metrics.items() if isinstance(v, Real)}


def _accumulated_gradients(runner: Runner) -> dict[str, torch.Tensor]:
    wrapper = runner.optim_wrapper
    if getattr(wrapper, '_accumulative_counts', 1) == 1 or wrapper.should_update():
        return {}
    parameters = unwrapped(runner.model).named_parameters()
    return {name: p.grad.detach().cpu().clone() for name, p in parameters if p.grad is not None}
