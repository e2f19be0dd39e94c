"""Position of every sample in a run, by which sampling is resumed and augmentation seeded.

A batch sampler passes each index on together with its position. So the workers of a data loader, which prefetch beyond
the end of an iteration or an epoch, know the position of each sample they load.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmkerv.engine.resume.random_state import seed_generators

# First number of a seed key, for the loading of a sample; the others are in exact_resume_hook.
SAMPLE = 1


class Draw(NamedTuple):
    """Index of a sample and its position: pass over the data, number within the pass, rank.

    Example:
        >>> Draw(7, (0, 3, 0)).index
        7
    """

    index: Any
    position: tuple[int, int, int]


class SeededDataset(Dataset):
    r"""Data set whose augmentation depends on a sample's position in the run, not on the process that loads it.

    Before a sample is loaded, Python, numpy and torch are seeded by :math:`(seed, epoch, position, rank)`. A sampler
    that repeats an index gives it another position, so the sample is augmented differently. Attributes are read from
    and assigned to ``dataset``.

    Args:
        dataset: data set to load from; an index that is no :class:`Draw` is loaded without seeding.
        seed: seed of the run.

    Example:
        >>> import torch
        >>> class Noise(list):
        ...     def __getitem__(self, index):
        ...         return torch.rand(1).item()
        >>> data = SeededDataset(Noise(), 0)
        >>> data[Draw(5, (0, 0, 0))] == data[Draw(5, (0, 0, 0))], data[Draw(5, (0, 0, 0))] == data[Draw(5, (1, 0, 0))]
        (True, False)
    """

    def __init__(self, dataset: Any, seed: int):
        self.__dict__.update(_seeded=dataset, _seed=seed)

    def __getitem__(self, draw: Any) -> Any:
        if not isinstance(draw, Draw):
            return self._seeded[draw]
        seed_generators(SAMPLE, self._seed, *draw.position, devices=False)
        return self._seeded[draw.index]

    def __len__(self) -> int:
        return len(self._seeded)

    def __getattr__(self, name: str) -> Any:
        # Not delegated: with the data set's __getitems__, torch would load a batch past __getitem__ above.
        if name.startswith('__'):
            raise AttributeError(name)
        return getattr(self._seeded, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._seeded, name, value)

    def __reduce__(self) -> tuple:
        return type(self), (self._seeded, self._seed)

    def __deepcopy__(self, memo: dict) -> 'SeededDataset':
        # Runner.build_dataloader copies its config, and the annotations need no copy.
        return self


class PositionedBatches:
    """Batch sampler that adds to each index its position and can start at any batch.

    Args:
        batches: batch sampler.
        endless: start another pass at the end, as mmengine's iteration-based loop does; otherwise a pass is an epoch.

    Attributes:
        epoch: number of the pass that the next iterator starts with.
        start: number of batches that the next iterator skips, across passes if endless; they are not loaded.

    Example:
        >>> batches = PositionedBatches([[4, 5], [6]]); batches.start = 1
        >>> [[(d.index, d.position) for d in batch] for batch in batches]
        [[(6, (0, 2, 0))]]
    """

    def __init__(self, batches: Any, endless: bool = False):
        self.batches, self.endless = batches, endless
        self.epoch = self.start = 0
        self.rank = get_rank()

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, skip, self.start = self.epoch, self.start, 0
        while True:
            position = 0
            for batch in self.batches:
                if skip:
                    skip -= 1
                else:
                    yield [Draw(index, (epoch, position + i, self.rank)) for i, index in enumerate(batch)]
                position += len(batch)
            if not self.endless or not position:
                return
            epoch += 1
            sampler = getattr(self.batches, 'sampler', None)
            if sampler is not None and hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)


class BatchStream:
    """Batches of an iteration-based loop, from a data loader whose iterator is created at the first batch.

    Args:
        loader: data loader over endless :class:`PositionedBatches`, which have the start.
        skips: number of batches that the loop requests and discards; ``None`` is returned for them.

    Example:
        >>> stream = BatchStream(DataLoader([1, 2]), skips=1)
        >>> next(stream), next(stream)
        (None, tensor([1]))
    """

    def __init__(self, loader: DataLoader, skips: int = 0):
        self._loader, self._skips = loader, skips
        self._iterator: Iterator | None = None

    def __iter__(self) -> 'BatchStream':
        return self

    def __next__(self) -> Any:
        if self._skips:
            self._skips -= 1
            return None
        if self._iterator is None:
            self._iterator = iter(self._loader)
        return next(self._iterator)

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing: the batch sampler has the start already.

        Example:
            >>> BatchStream(DataLoader([1])).skip_iter(3)
        """


def track_positions(loader: DataLoader, seed: int, endless: bool) -> PositionedBatches | None:
    """Make a loader use :class:`PositionedBatches` and a :class:`SeededDataset`, from its next iterator on.

    Args:
        loader: data loader, changed in place.
        seed: seed of the run.
        endless: see :class:`PositionedBatches`.

    Returns:
        The batch sampler, or ``None`` if the loader has none or its data set no indices; then nothing is changed.

    Example:
        >>> loader = DataLoader([4, 5, 6], batch_size=2)
        >>> track_positions(loader, seed=0, endless=False).start = 1
        >>> [batch.tolist() for batch in loader]
        [[6]]
    """
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    own = loader.batch_sampler
    batches = PositionedBatches(own.batches if isinstance(own, PositionedBatches) else own, endless)
    # A loader refuses to set these attributes once it is built, because an open iterator would not use them.
    if not isinstance(loader.dataset, SeededDataset):
        object.__setattr__(loader, 'dataset', SeededDataset(loader.dataset, seed))
    object.__setattr__(loader, 'batch_sampler', batches)
    if loader.generator is None:
        # Creating an iterator draws a number, which must not come from the run's generators: with persistent workers
        # an iterator is created once in a run, and again on resume.
        loader.generator = torch.Generator().manual_seed(seed)
    return batches
