"""Settings that depend on the data: input size, batch, length of the training, learning rate, anchors."""

import math
from typing import NamedTuple

import numpy as np

# For each task: the range of the default size, and how many images fit into a batch at which size.
SIZES = {'det': (64, 1344), 'seg': (64, 512), 'cls': (64, 224)}
# Of a classifier from scratch, whose stem does not reduce the image.
SMALLEST = 32
BATCHES = {'det': (8, 640), 'seg': (8, 512), 'cls': (64, 224)}
LARGEST_BATCH = {'det': 16, 'seg': 16, 'cls': 128}
# Iterations that a training should have at least, and the range of epochs: from pretrained weights and from scratch.
LENGTHS = {
    'det': ((4000, 12, 100), (8000, 36, 300)),
    'seg': ((8000, 20, 200), (16000, 60, 400)),
    'cls': ((3000, 20, 100), (10000, 60, 200)),
}
# Learning rate of SGD from pretrained weights and of AdamW from scratch, and the batch they are for.
RATES = {'det': (0.01, 5e-4, 16), 'seg': (0.01, 5e-4, 16), 'cls': (0.01, 1e-3, 64)}
# Anchors: those of RetinaNet have these sizes on the first and the last level, times octave_base_scale.
FIRST_LEVEL, LAST_LEVEL = 8, 128 * 2 ** (2 / 3)
OCTAVE_SCALES = (1, 1.5, 2, 3, 4, 6, 8)
QUANTILES = (0.05, 0.95)
# Quotient of the sides of two squares, one in the other, with an overlap (IoU) of 0.5: the bound for a match.
MATCH = math.sqrt(2)
RATIOS = (0.5, 1.0, 2.0)


class Schedule(NamedTuple):
    """How long and how fast to train.

    Args:
        batch: images of a batch.
        epochs: length.
        iterations: the same in iterations.
        rate: learning rate.
        warmup: iterations until the learning rate is reached.
        interval: epochs between two evaluations.
    """

    batch: int
    epochs: int
    iterations: int
    rate: float
    warmup: int
    interval: int


class Anchors(NamedTuple):
    """Anchors of RetinaNet.

    Args:
        scale: ``octave_base_scale``.
        ratios: height by width.
        small: 5 % of the boxes are smaller, in pixels of the network's input: the root of their area.
        large: 5 % are larger.
    """

    scale: float
    ratios: tuple[float, ...]
    small: float
    large: float


def default_size(task: str, sizes: np.ndarray, pretrained: bool = True) -> int:
    """Return the size of the network's input by the median of the images, a multiple of 32.

    Detection scales the longer side to it; segmentation and classification the shorter.

    Args:
        task: ``'det'``, ``'seg'`` or ``'cls'``.
        sizes: width and height of the images, (N, 2).
        pretrained: whether a classifier starts from ImageNet weights, whose stem needs 64 pixels.

    Example:
        >>> default_size('det', np.array([[640, 480]])), default_size('cls', np.array([[640, 480]]))
        (640, 224)
    """
    sides = sizes.max(1) if task == 'det' else sizes.min(1)
    low, high = SIZES[task]
    low = SMALLEST if task == 'cls' and not pretrained else low
    return int(np.clip(32 * round(float(np.median(sides)) / 32), low, high))


def schedule(task: str, size: int, images: int, pretrained: bool) -> Schedule:
    """Return batch, length and learning rate for a number of images.

    The batch is a power of two that fits into the memory of a usual GPU, and a quarter of the images at most; the
    learning rate is proportional to it.

    Example:
        >>> schedule('det', 640, 400, pretrained=True)
        Schedule(batch=8, epochs=80, iterations=4000, rate=0.005, warmup=400, interval=8)
    """
    number, at = BATCHES[task]
    fitting = min(number * (at / size) ** 2, LARGEST_BATCH[task], images / 4)
    batch = 2 ** max(1, math.floor(math.log2(max(fitting, 1))))
    iterations, fewest, most = LENGTHS[task][not pretrained]
    # The last batch of an epoch may have fewer images.
    steps = max(1, images // batch if task == 'cls' else math.ceil(images / batch))
    epochs = min(max(math.ceil(iterations / steps), fewest), most)
    tuned, scratch, of = RATES[task]
    rate = float(f'{(tuned if pretrained else scratch) * batch / of:.3g}')
    return Schedule(batch, epochs, epochs * steps, rate, min(500, max(2, epochs * steps // 10)), max(1, epochs // 10))


def anchors(boxes: np.ndarray) -> Anchors:
    """Return anchors for boxes: the smallest are as small as the boxes at the 5 % quantile, or smaller.

    Elongated boxes get further ratios, where a tenth of the boxes is beyond the usual ones.

    Args:
        boxes: width and height at the size of the network's input, (M, 2).

    Example:
        >>> anchors(np.array([[20.0, 20.0], [60.0, 60.0]])).scale
        3
    """
    if not len(boxes):
        return Anchors(4, RATIOS, math.nan, math.nan)
    small, large = (float(value) for value in np.quantile(np.sqrt(boxes.prod(1)), QUANTILES))
    # A quarter larger than the box still overlaps it well.
    fitting = [scale for scale in OCTAVE_SCALES if scale * FIRST_LEVEL <= 1.25 * small]
    flat, tall = np.quantile(boxes[:, 1] / boxes[:, 0], (0.1, 0.9))
    ratios = (*((0.25,) if flat < RATIOS[0] / MATCH else ()), *RATIOS, *((4.0,) if tall > RATIOS[-1] * MATCH else ()))
    return Anchors(max(fitting, default=OCTAVE_SCALES[0]), ratios, small, large)


def out_of_reach(found: Anchors, size: int) -> list[str]:
    """Say where boxes are too small or too large for the anchors.

    Example:
        >>> out_of_reach(Anchors(1, RATIOS, 3.0, 40.0), 320)
        ['5 % of the boxes are smaller than 3 pixels at size 320, too small for any anchor: use a larger --size']
    """
    notes = []
    if found.small < FIRST_LEVEL * found.scale / MATCH:
        notes.append(
            f'5 % of the boxes are smaller than {found.small:.2g} pixels at size {size}, too small for any anchor: use '
            'a larger --size'
        )
    if found.large > LAST_LEVEL * found.scale * MATCH:
        notes.append(
            f'5 % of the boxes are larger than {found.large:.3g} pixels at size {size}, too large for any anchor: use '
            'a smaller --size'
        )
    return notes
