"""Random scenes of textured shapes on a noisy background, drawn with numpy.

Only the outline depends on the class: colours, textures, sizes and rotations have the same distributions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmkerv.datasets.outlines import has_hole

CLASSES = ('circle', 'rectangle', 'triangle')
# In pixels; the three outlines are indistinguishable below this radius.
MIN_RADIUS = 6
# Radii as fractions of the image: of the shapes of a scene, and of a single shape.
SCENE_RADII, SINGLE_RADII = (0.09, 0.25), (0.22, 0.42)
# Largest share of a shape that another may hide, and number of attempts to place a shape.
MAX_HIDDEN = 0.3
_TRIES = 30
# In 8-bit levels: ranges of background and other colours, their least distance, amplitudes of clouds and noise.
_GROUND, _COLOURS, _DISTANCE, _CLOUDS, _NOISE = (40, 215), (10, 245), 70, 70, 8

Covers = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scene:
    """Image with its shapes.

    Attributes:
        image: (H, W, 3), RGB, uint8.
        instances: (H, W), the visible shape at each pixel: 0 for the background, i + 1 for shape i.
        labels: index into :data:`CLASSES` of each shape, in drawing order.
    """

    image: np.ndarray
    instances: np.ndarray
    labels: tuple[int, ...]

    def mask(self, index: int) -> np.ndarray:
        """Return the visible pixels (H, W) of shape ``index``."""
        return self.instances == index + 1


def draw_scene(rng: np.random.Generator, size: int, max_shapes: int) -> Scene:
    """Draw 1 to ``max_shapes`` shapes, each with a radius of 9 to 25 % of the image and entirely inside it.

    Later shapes cover earlier ones. A position is rejected if the new shape would hide more than 30 % of an earlier
    one, if more than 30 % of the new shape would cover earlier ones, or if what remains of an earlier one would have a
    hole. A shape is left out after 30 rejected positions, so a small image can have fewer shapes.

    Args:
        rng: source of all randomness.
        size: height and width in pixels.
        max_shapes: largest number of shapes, >= 1.

    Example:
        >>> scene = draw_scene(np.random.default_rng(0), size=64, max_shapes=3)
        >>> scene.image.shape, scene.labels, scene.instances.max().item()
        ((64, 64, 3), (1,), 1)
    """
    ground = rng.uniform(*_GROUND, 3)
    canvas = _background(rng, size, ground)
    instances = np.zeros((size, size), dtype=np.int64)
    labels: list[int] = []
    areas: list[int] = []
    for _ in range(rng.integers(1, max_shapes + 1)):
        for _ in range(_TRIES):
            label = int(rng.integers(len(CLASSES)))
            covers = _place_shape(rng, label, size, *SCENE_RADII)
            mask = _coverage(covers, size, subpixels=1) > 0
            if _fits(mask, instances, areas):
                canvas = _paint(rng, canvas, _coverage(covers, size), ground)
                labels.append(label)
                areas.append(int(mask.sum()))
                instances[mask] = len(labels)
                break
    return Scene(_to_image(rng, canvas), instances, tuple(labels))


def draw_single(rng: np.random.Generator, size: int, label: int) -> Scene:
    """Draw one shape of class ``label`` with a radius of 22 to 42 % of the image, for classification.

    Example:
        >>> draw_single(np.random.default_rng(0), size=32, label=2).labels
        (2,)
    """
    ground = rng.uniform(*_GROUND, 3)
    canvas = _background(rng, size, ground)
    covers = _place_shape(rng, label, size, *SINGLE_RADII)
    canvas = _paint(rng, canvas, _coverage(covers, size), ground)
    return Scene(_to_image(rng, canvas), (_coverage(covers, size, subpixels=1) > 0).astype(np.int64), (label,))


def _place_shape(rng: np.random.Generator, label: int, size: int, low: float, high: float) -> Covers:
    """Draw radius (``low`` to ``high`` as fractions of ``size``), position and rotation; return the test for points."""
    smallest = max(MIN_RADIUS, low * size)
    radius = rng.uniform(smallest, max(smallest, high * size))
    cx, cy = rng.uniform(radius + 1, size - radius - 1, 2)
    angle = rng.uniform(0, 2 * math.pi)
    if CLASSES[label] == 'circle':
        return lambda x, y: (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
    if CLASSES[label] == 'rectangle':
        # Half the angle between the diagonals: sides from 0.61:1 to 1:1.
        half = rng.uniform(0.55, math.pi / 4)
        corners = [angle + half, angle + math.pi - half, angle + math.pi + half, angle - half]
    else:
        corners = [angle + 2 * math.pi * i / 3 + rng.uniform(-0.2, 0.2) for i in range(3)]
    points = [(cx + radius * math.cos(a), cy + radius * math.sin(a)) for a in corners]

    def covers(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        inside = np.ones(np.broadcast(x, y).shape, dtype=bool)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
        return inside

    return covers


def _coverage(covers: Covers, size: int, subpixels: int = 4) -> np.ndarray:
    """Return the covered share (H, W) of each pixel, sampled at ``subpixels`` x ``subpixels`` points."""
    points = (np.arange(size * subpixels) + 0.5) / subpixels
    inside = covers(points[None, :], points[:, None])
    return inside.reshape(size, subpixels, size, subpixels).mean(axis=(1, 3))


def _fits(mask: np.ndarray, instances: np.ndarray, areas: list[int]) -> bool:
    if (instances[mask] > 0).sum() > MAX_HIDDEN * mask.sum():
        return False
    for number in np.unique(instances[mask & (instances > 0)]).tolist():
        rest = (instances == number) & ~mask
        if rest.sum() < (1 - MAX_HIDDEN) * areas[number - 1] or has_hole(rest):
            return False
    return True


def _paint(rng: np.random.Generator, canvas: np.ndarray, coverage: np.ndarray, ground: np.ndarray) -> np.ndarray:
    first = _distant_colour(rng, [ground])
    second = _distant_colour(rng, [ground, first])
    mix = _texture(rng, len(canvas))[..., None]
    alpha = coverage[..., None]
    return canvas * (1 - alpha) + (first * (1 - mix) + second * mix) * alpha


def _distant_colour(rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    while True:
        colour = rng.uniform(*_COLOURS, 3)
        if all(np.sum((colour - other) ** 2) >= _DISTANCE**2 for other in others):
            return colour


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw weights (H, W) in [0, 1] of stripes, checks or coarse noise."""
    kind = int(rng.integers(3))
    if kind == 2:
        return _smooth_noise(rng, size, cells=max(4, size // 5))
    angle, period, phase = rng.uniform(0, math.pi), rng.uniform(3, 7), rng.uniform(0, 7)
    y, x = np.mgrid[:size, :size]
    along, across = math.cos(angle), math.sin(angle)
    weights = np.floor((x * along + y * across + phase) / period) % 2
    if kind == 1:
        weights = (weights + np.floor((y * along - x * across + phase) / period)) % 2
    return weights


def _background(rng: np.random.Generator, size: int, ground: np.ndarray) -> np.ndarray:
    clouds = np.stack([_smooth_noise(rng, size, cells=8) for _ in range(3)], axis=-1)
    return ground + _CLOUDS * (clouds - 0.5)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Draw noise (H, W) in [0, 1] that varies over ``cells`` cells along each side."""
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    return np.clip(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)), 0, 1)


def _to_image(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    noise = _NOISE * rng.standard_normal(canvas.shape)
    return np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8)
