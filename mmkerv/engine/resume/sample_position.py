"""The place of every sample in the data of a run: what a sampler draws goes on from there, and augmentation is seeded.

A batch sampler passes each index on together with its place, so that workers of a data loader, which prefetch beyond
the end of an iteration or an epoch, know it whenever they come to it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmkerv.engine.resume.random_state import seed_generators

# The first number of a key says what is seeded.
SAMPLE = 1


class Draw(NamedTuple):
    """An index and its place: pass over the data, number within the pass, rank.

    Example:
        >>> Draw(7, (0, 3, 0)).index
        7
    """

    index: Any
    place: tuple[int, int, int]


class SeededDataset(Dataset):
    r"""A data set whose augmentation depends on what is drawn when, and not on the process that loads it.

    Before sample i is loaded, python, numpy and torch are seeded by :math:`(seed, epoch, place(i), rank)`; the place of
    a draw determines its index, and a sampler that repeats an image augments it anew. Attributes are those of
    ``dataset``, which also takes assignments.

    Args:
        dataset: what is loaded from; an index that is no :class:`Draw` goes through unseeded.
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
        seed_generators(SAMPLE, self._seed, *draw.place, devices=False)
        return self._seeded[draw.index]

    def __len__(self) -> int:
        return len(self._seeded)

    def __getattr__(self, name: str) -> Any:
        # torch asks for __getitems__, which would load a batch without coming here.
        if name.startswith('__'):
            raise AttributeError(name)
        return getattr(self._seeded, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._seeded, name, value)

    def __reduce__(self) -> tuple:
        return type(self), (self._seeded, self._seed)

    def __deepcopy__(self, memo: dict) -> 'SeededDataset':
        # Runner.build_dataloader copies its config; the annotations in it stay where they are.
        return self


class PlacedBatches:
    """A batch sampler that gives each index its place and can begin anywhere.

    Args:
        batches: batch sampler.
        endless: begin another pass at the end, as mmengine's loop over iterations does; else a pass is an epoch.

    Attributes:
        epoch: number of the pass that the next iterator begins with.
        start: how many batches the next iterator leaves out, over the passes if endless; nothing is loaded for them.

    Example:
        >>> batches = PlacedBatches([[4, 5], [6]]); batches.start = 1
        >>> [[(d.index, d.place) for d in batch] for batch in batches]
        [[(6, (0, 2, 0))]]
    """

    def __init__(self, batches: Any, endless: bool = False):
        self.batches, self.endless = batches, endless
        self.epoch = self.start = 0
        self.rank = get_rank()

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, skip, self.start = self.epoch, self.start, 0
        while True:
            place = 0
            for batch in self.batches:
                if skip:
                    skip -= 1
                else:
                    yield [Draw(index, (epoch, place + i, self.rank)) for i, index in enumerate(batch)]
                place += len(batch)
            if not self.endless or not place:
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
    """The batches of a loop over iterations, from an iterator that begins with the first of them.

    Args:
        loader: data loader over endless :class:`PlacedBatches`, which know where to begin.
        skips: how many times the loop will ask for a batch only to leave it out.

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
        """Do nothing: the loader begins where it is to begin.

        Example:
            >>> BatchStream(DataLoader([1])).skip_iter(3)
        """


def place_batches(loader: DataLoader, seed: int, endless: bool) -> PlacedBatches | None:
    """Make a loader draw from :class:`PlacedBatches` and load from a :class:`SeededDataset`, from its next iterator on.

    Args:
        loader: changed in place.
        seed: seed of the run.
        endless: see :class:`PlacedBatches`.

    Returns:
        The batches, or ``None`` if the loader has no batch sampler or its data set no indices: nothing is changed.

    Example:
        >>> loader = DataLoader([4, 5, 6], batch_size=2)
        >>> place_batches(loader, seed=0, endless=False).start = 1
        >>> [batch.tolist() for batch in loader]
        [[6]]
    """
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    own = loader.batch_sampler
    batches = PlacedBatches(own.batches if isinstance(own, PlacedBatches) else own, endless)
    # A loader refuses both names once it is built, for an iterator that is under way would not see them.
    if not isinstance(loader.dataset, SeededDataset):
        object.__setattr__(loader, 'dataset', SeededDataset(loader.dataset, seed))
    object.__setattr__(loader, 'batch_sampler', batches)
    if loader.generator is None:
        # Making an iterator draws from it. One with persistent workers is made once in a run, and again when resumed.
        loader.generator = torch.Generator().manual_seed(seed)
    return batches
