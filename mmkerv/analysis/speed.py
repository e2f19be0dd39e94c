"""Speed of inference, of data loading and of reading a data set, for models of all three libraries."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn

from mmkerv.engine.config.check import check_data, loaders
from mmkerv.engine.config.prepare import set_loader_defaults
from mmkerv.engine.scope import enter_scope
from mmkerv.errors import ConfigError
from mmkerv.ops import frozen_kernels
from mmkerv.ops.core.base import ConvNd


class Speed(NamedTuple):
    """Times of the runs of a benchmark.

    Args:
        seconds: mean seconds per item (image, batch or sample), for each run.

    Example:
        >>> print(Speed([0.1, 0.1]))
        10.00 / s, 100.00 ms each (2 runs, standard deviation 0.00 / s)
    """

    seconds: list[float]

    @property
    def rates(self) -> list[float]:
        """Items per second, for each run."""
        return [1 / seconds for seconds in self.seconds]

    def __str__(self) -> str:
        text = f'{fmean(self.rates):.2f} / s, {fmean(self.seconds) * 1e3:.2f} ms each'
        if len(self.seconds) == 1:
            return text
        return f'{text} ({len(self.seconds)} runs, standard deviation {pstdev(self.rates):.2f} / s)'


def measured(
    items: Callable[[], Iterable],
    work: Callable[[Any], Any] | None = None,
    runs: int = 1,
    most: int = 200,
    warmup: int = 5,
    tell: Callable[[int, float], None] | None = None,
    interval: int = 50,
) -> Speed:
    """Time some work on items, or without any work, reading the items.

    Args:
        items: returns the items of a run; it is called again if they are fewer than ``most``.
        work: called with each item; reading the item is then not timed. A GPU is synchronised before and after.
        runs: number of runs.
        most: items of a run, including those that are not timed.
        warmup: items at the start that are not timed, fewer than ``most``.
        tell: called every ``interval`` items with their number and the rate so far.
        interval: see ``tell``.

    Raises:
        ConfigError: if there is no item to time.

    Example:
        >>> len(measured(lambda: [1, 2, 3], runs=2, most=8).seconds)
        2
    """
    if most <= warmup:
        raise ConfigError(f'--max-iter must be above --num-warmup, got {most} and {warmup}: nothing would be timed')
    means = []
    for _ in range(runs):
        total, source = 0.0, _repeated(items)
        for number in range(1, most + 1):
            start = time.perf_counter()
            item = next(source)
            if work is not None:
                _synchronize()
                start = time.perf_counter()
                work(item)
                _synchronize()
            if number > warmup:
                total += time.perf_counter() - start
                if tell and (number % interval == 0 or number == most):
                    tell(number, (number - warmup) / total)
        means.append(total / (most - warmup))
    return Speed(means)


def _repeated(items: Callable[[], Iterable]) -> Iterator:
    while True:
        empty = True
        for item in items():
            empty = False
            yield item
        if empty:
            raise ConfigError('the data set is empty; choose another phase, or fix its annotations')


def _synchronize() -> None:
    # The work may be on any of them.
    for device in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        torch.cuda.synchronize(device)


def fused(model: nn.Module) -> nn.Module:
    """Fuse batch norms into the convolutions before them, in place.

    Raises:
        ConfigError: if the model has operators that are not folded. mmcv leaves their norms as they are; and in a
            sequence of convolution, operator and norm, it fuses the norm into the convolution, which is wrong.

    Example:
        >>> fused(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))[1]  # doctest: +SKIP
        Identity()
    """
    operators = {name: type(m).__name__ for name, m in model.named_modules() if isinstance(m, ConvNd)}
    if operators:
        name, kind = next(iter(operators.items()))
        raise ConfigError(
            f'--fuse-conv-bn: the model has {len(operators)} operators that are not folded, such as {name} ({kind}). '
            'Fold it with tools/model_converters/reparameterize_model.py and give the config and the checkpoint that '
            'it writes, or choose a network without them (a kervolution does not fold)'
        )
    from mmcv.cnn import fuse_conv_bn

    return fuse_conv_bn(model)


def inference_speed(cfg: Config, model: nn.Module, phase: str = 'test', **settings: Any) -> Speed:
    """Time a model on single images of a phase's data, with preprocessing and post-processing but without reading.

    Generated kernels are computed once, as in ``tools/test.py``.

    Args:
        cfg: config of the model.
        model: model in evaluation mode, on its device.
        phase: ``'train'``, ``'val'`` or ``'test'``.
        **settings: see :func:`measured`.

    Raises:
        ConfigError: if the data does not exist.

    Example:
        >>> inference_speed(cfg, model, most=50)  # doctest: +SKIP
        Speed(seconds=[0.021])
    """
    built = data_loaders(cfg, phase, batch_size=1)
    with torch.no_grad(), frozen_kernels(model):
        return measured(lambda: chain.from_iterable(built), model.test_step, **settings)


def loading_speed(cfg: Config, task: str, phase: str = 'test', **settings: Any) -> Speed:
    """Time the loading of a phase's data.

    Args:
        cfg: config with the data.
        task: ``'dataloader'`` times batches with all workers, ``'dataset'`` single samples in this process.
        phase: ``'train'``, ``'val'`` or ``'test'``.
        **settings: see :func:`measured`.

    Raises:
        ConfigError: if the data does not exist.

    Example:
        >>> loading_speed(cfg, 'dataset', most=50)  # doctest: +SKIP
        Speed(seconds=[0.004])
    """
    if task == 'dataloader':
        built = data_loaders(cfg, phase)
        return measured(lambda: chain.from_iterable(built), **settings)
    sets = data_sets(cfg, phase)
    return measured(lambda: _samples(sets), **settings)


def _samples(sets: list[Any]) -> Iterator:
    return (dataset[index] for dataset in sets for index in range(len(dataset)))


def data_loaders(cfg: Config, phase: str, **changes: Any) -> list[Any]:
    """Build a phase's data loaders, with changes to their configs; most configs have one.

    Raises:
        ConfigError: if the config has none, or its data does not exist.

    Example:
        >>> data_loaders(cfg, 'test', batch_size=1)  # doctest: +SKIP
    """
    _check(cfg, phase)
    set_loader_defaults(cfg)
    return [Runner.build_dataloader({**loader, **changes}, seed=0) for _, loader in loaders(cfg, phase)]


def data_sets(cfg: Config, phase: str) -> list[Any]:
    """Build the data sets of a phase's data loaders; most configs have one.

    Raises:
        ConfigError: if the config has none, or its data does not exist.

    Example:
        >>> [len(dataset) for dataset in data_sets(cfg, 'train')]  # doctest: +SKIP
        [256]
    """
    _check(cfg, phase)
    sets = [DATASETS.build(loader['dataset']) for _, loader in loaders(cfg, phase)]
    for dataset in sets:
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
    return sets


def image_shapes(cfg: Config, model: nn.Module, number: int) -> list[tuple[int, int]]:
    """Return height and width of the first images of the test data as the model gets them, with padding.

    Args:
        cfg: config with the data.
        model: model with the preprocessor that pads.
        number: number of images.

    Raises:
        ConfigError: if the data does not exist.

    Example:
        >>> image_shapes(cfg, model, 2)  # doctest: +SKIP
        [(800, 1216), (800, 1088)]
    """
    shapes = []
    for sample in islice(_samples(data_sets(cfg, 'test')), number):
        inputs = model.data_preprocessor(pseudo_collate([sample]), False)['inputs']
        shapes.append(tuple(inputs[0].shape[-2:]))
    return shapes


def _check(cfg: Config, phase: str) -> None:
    if not cfg.get(f'{phase}_dataloader'):
        raise ConfigError(f'the config has no {phase}_dataloader; choose another phase, or another config')
    check_data(cfg, phase)
    enter_scope(cfg)
