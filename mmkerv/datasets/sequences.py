"""Transforms of images into sequences: one row of pixels, permuted, subsampled or with samples dropped."""

from functools import lru_cache

import numpy as np
from mmcv.transforms import BaseTransform

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import integer, real
from mmkerv.registry import TRANSFORMS


class SequenceTransform(BaseTransform):
    """Base class of the transforms of a sequence, an image (1, L) or (1, L, C) under the key ``img``.

    Changes ``img`` and ``img_shape``.

    Example:
        >>> issubclass(Permute, SequenceTransform)
        True
    """

    def sequence(self, image: np.ndarray) -> np.ndarray:
        """Return the transformed sequence."""
        raise NotImplementedError(f'{type(self).__name__} must implement sequence')

    def transform(self, results: dict) -> dict:
        """Replace the sequence of the results.

        Raises:
            ValueError: if the image has more than one row.
        """
        image = results['img']
        if image.shape[0] != 1:
            raise ArgumentError(
                f'{type(self).__name__} takes a sequence of shape (1, L) or (1, L, C), got {image.shape}; put '
                "dict(type='mmkerv.ToSequence') before it"
            )
        results['img'] = self.sequence(image)
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        """Return the arguments.

        Example:
            >>> Permute(seed=3)
            Permute(seed=3)
        """
        values = ', '.join(f'{k}={v!r}' for k, v in vars(self).items() if not k.startswith('_'))
        return f'{type(self).__name__}({values})'


@TRANSFORMS.register_module()
class ToSequence(BaseTransform):
    """Flatten an image (H, W) or (H, W, C) row by row into one of height 1 and width H * W.

    Changes ``img`` and ``img_shape``. Sequential MNIST consists of the 784 pixels in this order.

    Source: Le et al., A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, 2015.

    Example:
        >>> ToSequence()({'img': np.arange(6).reshape(2, 3)})['img'].tolist()
        [[0, 1, 2, 3, 4, 5]]
    """

    def transform(self, results: dict) -> dict:
        """Replace the image of the results by its single row."""
        image = results['img']
        results['img'] = image.reshape(1, -1, *image.shape[2:])
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        """Return the name."""
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class Permute(SequenceTransform):
    """Permute the samples of every sequence by the same random order, as in permuted MNIST.

    Args:
        seed: seed of the order, >= 0. It is part of the config, so that a checkpoint is tested with the order of its
            training, and is independent of the run's seed.

    Raises:
        ValueError: for a negative seed, or an image of more than one row.

    Example:
        >>> Permute(seed=0)({'img': np.arange(6)[None]})['img'].tolist()
        [[5, 2, 1, 3, 0, 4]]
    """

    def __init__(self, seed: int):
        self.seed = integer(seed, 'seed', 0)

    def sequence(self, image: np.ndarray) -> np.ndarray:
        """Return the sequence in the order of the seed."""
        return image[:, order(self.seed, image.shape[1])]


@TRANSFORMS.register_module()
class SubSample(SequenceTransform):
    """Keep every n-th sample of a sequence, as in data of a lower sampling rate.

    A network trained at the full rate is adapted by ``mmkerv.ops.set_resolution(model, 1 / step)``.

    Args:
        step: n, >= 1.

    Raises:
        ValueError: for a step < 1, or an image of more than one row.

    Source: CKConv, ICLR 2022, tests at other sampling rates.

    Example:
        >>> SubSample(2)({'img': np.arange(5)[None]})['img'].tolist()
        [[0, 2, 4]]
    """

    def __init__(self, step: int):
        self.step = integer(step, 'step', 1)

    def sequence(self, image: np.ndarray) -> np.ndarray:
        """Return every n-th sample."""
        return image[:, :: self.step]


@TRANSFORMS.register_module()
class DropSamples(SequenceTransform):
    """Drop a random share of the samples of each sequence, as in irregularly sampled data.

    A dropped sample gets the value ``fill``, so that sequences keep their length and their times. If ``fill`` is the
    mean of the ``data_preprocessor``, dropped samples are zero after normalisation and do not contribute to a
    convolution.

    Args:
        rate: share of dropped samples, in [0, 1).
        fill: value of dropped samples, in the range of the image: one number, or one for each channel.
        seed: seed that gives every call the same choice, for tests; ``None`` draws from numpy's global state.

    Raises:
        ValueError: for a rate outside [0, 1), or an image of more than one row.

    Source: CKConv, ICLR 2022, irregularly-sampled data.

    Example:
        >>> int((DropSamples(0.3, seed=0)({'img': np.ones((1, 10))})['img'] == 0).sum())
        3
    """

    def __init__(self, rate: float, fill: float | list[float] = 0.0, seed: int | None = None):
        self.rate = real(rate, 'rate', 0.0)
        if self.rate >= 1:
            raise ArgumentError(f'rate must be in [0, 1), got {rate}; at least one sample must remain')
        self.fill = fill
        self.seed = None if seed is None else integer(seed, 'seed', 0)

    def sequence(self, image: np.ndarray) -> np.ndarray:
        """Return the sequence with samples replaced."""
        generator = np.random if self.seed is None else np.random.RandomState(self.seed)
        length = image.shape[1]
        dropped = generator.permutation(length)[: round(self.rate * length)]
        image = image.copy()
        image[:, dropped] = np.asarray(self.fill)
        return image


@lru_cache(16)
def order(seed: int, length: int) -> np.ndarray:
    """Return the permutation of ``length`` samples for a seed; numpy guarantees the results of its legacy generator.

    Example:
        >>> order(0, 4).tolist()
        [2, 3, 1, 0]
    """
    return np.random.RandomState(seed).permutation(length)
