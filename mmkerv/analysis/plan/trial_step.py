"""A few training steps, to see whether a training runs and what a step costs: batches, optimizer, step."""

import copy
import time
from collections.abc import Sequence
from itertools import chain, islice
from statistics import median
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from mmkerv.analysis.memory import peak_bytes
from mmkerv.deploy.model_outputs import image_channels
from mmkerv.engine.config.check import loaders
from mmkerv.engine.config.prepare import add_operator_rules
from mmkerv.engine.data_checks.label_range_hook import class_numbers
from mmkerv.engine.scope import library_of
from mmkerv.errors import ConfigError

# A plan is read before a training, by somebody who waits: on a slow machine fewer steps have to do.
TIMING_SECONDS = 60

# Schedules warm up: the first steps of a fresh network at the whole learning rate may well diverge.
WARM_UP = 1e-3


def built_here(loader: dict) -> Any:
    """Build a data loader that reads in this process: an error is then that of the data, not of a worker.

    Args:
        loader: its config, completed by :func:`mmkerv.engine.config.prepare.set_loader_defaults`; it stays as it is.

    Example:
        >>> len(built_here(cfg.train_dataloader))  # doctest: +SKIP
        7330
    """
    loader = {**copy.deepcopy(loader), 'num_workers': 0, 'persistent_workers': False}
    # Of workers, which torch refuses without them.
    for key in ('prefetch_factor', 'multiprocessing_context', 'timeout'):
        loader.pop(key, None)
    return Runner.build_dataloader(loader, seed=0)


def first_batches(loader: Any, number: int) -> tuple[list[Any], float]:
    """Read the first batches of a data loader, and measure the seconds that a batch takes.

    Args:
        loader: data loader that reads in this process.
        number: number of batches, fewer if there are no more.

    Raises:
        ConfigError: if there is none.

    Example:
        >>> first_batches([1, 2, 3], 2)[0]
        [1, 2]
    """
    start = time.perf_counter()
    batches = list(islice(loader, number))
    if not batches:
        raise ConfigError('train_dataloader has no batch: the data set is empty, or smaller than a batch (drop_last)')
    return batches, (time.perf_counter() - start) / len(batches)


def random_batch(cfg: Config, model: nn.Module, shape: tuple[int, int]) -> dict[str, Any]:
    """Return a batch of random images and annotations, as the data loader of a training gives it.

    Args:
        cfg: config of the training.
        model: its model, on the CPU.
        shape: height and width of the images.

    Raises:
        ConfigError: for a library whose annotations are not known here.

    Example:
        >>> random_batch(cfg, model, (800, 1344))['inputs'][0].shape  # doctest: +SKIP
        torch.Size([3, 800, 1344])
    """
    library = library_of(cfg)
    number = next((loader.get('batch_size', 1) for _, loader in loaders(cfg, 'train')), 1)
    size = (image_channels(model), *shape)
    classes = class_numbers(model)[0] or 2
    if library in ('mmdet', 'mmrotate'):
        return _detection_batch(library, model, number, size, classes)
    generator = torch.Generator().manual_seed(0)
    images = list(torch.randint(256, (number, *size), generator=generator, dtype=torch.uint8))
    if library == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        masks = torch.randint(max(classes, 2), (number, 1, *shape), generator=generator)
        samples = [SegDataSample(gt_sem_seg=PixelData(data=mask), metainfo={'img_shape': shape}) for mask in masks]
        return {'inputs': images, 'data_samples': samples}
    if library == 'mmpretrain':
        from mmpretrain.structures import DataSample

        labels = torch.randint(classes, (number,), generator=generator)
        return {'inputs': torch.stack(images), 'data_samples': [DataSample().set_gt_label(n) for n in labels]}
    raise ConfigError(f'no random annotations are known for a model of {library}; put its data there')


def _detection_batch(library: str, model: nn.Module, number: int, size: tuple[int, ...], classes: int) -> Any:
    if library == 'mmrotate':
        from mmrotate.testing import demo_mm_inputs
    else:
        from mmdet.testing import demo_mm_inputs

    has_semantic = any(
        name.rpartition('.')[2] in ('semantic_head', 'panoptic_head') for name, _ in model.named_modules()
    )
    # Labels begin with 1 there.
    settings: dict[str, Any] = dict(num_classes=max(classes, 2), use_box_type=library == 'mmrotate')
    if library == 'mmdet':
        settings |= dict(with_mask=True, with_semantic=has_semantic)
    batch = demo_mm_inputs(number, [list(size)] * number, **settings)
    if classes == 1:
        for sample in batch['data_samples']:
            sample.gt_instances.labels.zero_()
    return batch


def trial_optimizer(cfg: Config, model: nn.Module) -> Any:
    """Build the optimizer wrapper of a training, with the small learning rates of a warm-up.

    Args:
        cfg: config; it stays as it is.
        model: bare network.

    Example:
        >>> trial_optimizer(cfg, model).param_groups[0]['lr']  # doctest: +SKIP
        2e-05
    """
    cfg = copy.deepcopy(cfg)
    add_operator_rules(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = wrapper.param_groups
    # Of several optimizers, groups by name.
    for group in chain(*groups.values()) if isinstance(groups, dict) else groups:
        # As schedulers keep it.
        group['initial_lr'] = group['lr']
        group['lr'] *= WARM_UP
    return wrapper


def trial_step(model: nn.Module, wrapper: Any, batch: Any) -> float:
    """Do a training step and return its loss.

    Args:
        model: model of the three libraries, in training mode.
        wrapper: its optimizer wrapper.
        batch: batch of the data loader.

    Example:
        >>> trial_step(model, wrapper, batch)  # doctest: +SKIP
        2.13
    """
    # Preprocessors may change the samples they are given.
    return float(torch.as_tensor(model.train_step(copy.deepcopy(batch), wrapper)['loss']).detach())


class StepCost(NamedTuple):
    """Cost of a training step.

    Args:
        seconds: median over the steps that were timed.
        peak_bytes: largest memory that a step takes at a time, for activations and gradients; on a CPU, of tensors.
        timed: number of steps that were timed.

    Example:
        >>> StepCost(0.1, 2**20, 3).seconds
        0.1
    """

    seconds: float
    peak_bytes: int
    timed: int


def step_costs(
    trained: Sequence[tuple[nn.Module, Any]],
    batches: Sequence[Any],
    rounds: int,
    limit: float = TIMING_SECONDS,
) -> list[StepCost]:
    """Measure training steps of several networks, which take turns so that a slow machine slows all of them.

    Args:
        trained: models in training mode on one device, each with its optimizer wrapper; they are trained by it.
        batches: batches, taken in turn.
        rounds: number of steps of each that are timed, after two that are not.
        limit: seconds after which no further step of each is begun; one is always timed.

    Example:
        >>> step_costs([(model, wrapper)], batches, 5)  # doctest: +SKIP
        [StepCost(seconds=1.62, peak_bytes=3221225472, timed=5)]
    """
    begin = time.perf_counter()
    device = next(trained[0][0].parameters()).device
    # The first step allocates the state of the optimizer, which stays.
    for model, wrapper in trained:
        trial_step(model, wrapper, batches[0])
    peaks = [peak_bytes(lambda one=one: trial_step(*one, batches[0]), device) for one in trained]
    seconds: list[list[float]] = [[] for _ in trained]
    for number in range(rounds):
        if number and time.perf_counter() - begin > limit:
            break
        for times, (model, wrapper) in zip(seconds, trained):
            batch = copy.deepcopy(batches[number % len(batches)])
            _synchronize(device)
            start = time.perf_counter()
            model.train_step(batch, wrapper)
            _synchronize(device)
            times.append(time.perf_counter() - start)
    return [StepCost(median(times), peak, len(times)) for times, peak in zip(seconds, peaks)]


def timing_seconds(step: float, networks: int, rounds: int, limit: float = TIMING_SECONDS) -> float:
    """Return the seconds that :func:`step_costs` takes about.

    Args:
        step: seconds of a step of a network.
        networks: number of networks.
        rounds: number of steps of each that are to be timed.
        limit: seconds after which no further step of each is begun.

    Example:
        >>> timing_seconds(1, 2, 3), timing_seconds(20, 2, 3)
        (10, 120)
    """
    both = step * networks
    untimed = 2 * both
    left = max(0, limit - untimed)
    return untimed + both * min(rounds, 1 + int(left // both if both else rounds))


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
