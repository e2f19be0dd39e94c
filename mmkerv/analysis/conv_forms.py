"""What other forms of a convolution would cost: stacked, grouped, separable, bottleneck.

The forms, and the counts of weights, of Chazareix, "How to optimize Convolutional Layer with Convolution Kernel"
(2022); biases are left out there and here. A convolution of c channels by k x k has k^2 c^2 weights.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

# As in the article's examples.
GROUPS = 2
NARROWING = 8


class Cost(NamedTuple):
    """Weights, and multiply-adds of one image.

    Example:
        >>> Cost(9, 9) + Cost(1, 4)
        Cost(weights=10, macs=13)
    """

    weights: int
    macs: int

    def __add__(self, other: 'Cost') -> 'Cost':
        return Cost(self.weights + other.weights, self.macs + other.macs)


class Shape(NamedTuple):
    """A two-dimensional convolution, as far as it costs.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: height and width of the kernel.
        groups: blocks of channels.
        before: positions (height x width, over all calls) of the input.
        between: height of the output by width of the input.
        after: positions of the output.

    Example:
        >>> Shape(256, 256, (3, 3), 1, 100, 100, 100).cost()
        Cost(weights=589824, macs=58982400)
    """

    inputs: int
    outputs: int
    kernel: tuple[int, int]
    groups: int
    before: int
    between: int
    after: int

    def cost(self) -> Cost:
        """Weights and multiply-adds."""
        weights = self.outputs * self.inputs // self.groups * math.prod(self.kernel)
        return Cost(weights, weights * self.after)


def stacked(shape: Shape) -> Cost | None:
    """3x3 convolutions on top of one another, as many as see the same window; the first has the stride.

    Example:
        >>> stacked(Shape(1, 1, (5, 5), 1, 1, 1, 1)).weights
        18
    """
    if max(shape.kernel) < 5 or any(k % 2 == 0 for k in shape.kernel):
        return None
    small = shape._replace(kernel=tuple(min(k, 3) for k in shape.kernel))
    further = small._replace(inputs=shape.outputs)
    total = small.cost()
    for _ in range((max(shape.kernel) - 1) // 2 - 1):
        total += further.cost()
    return total


def grouped(shape: Shape) -> Cost | None:
    """Two groups for each that there is.

    Example:
        >>> grouped(Shape(512, 512, (3, 3), 1, 1, 1, 1)).weights == 2 * 9 * 256**2
        True
    """
    groups = shape.groups * GROUPS
    if shape.inputs % groups or shape.outputs % groups:
        return None
    return shape._replace(groups=groups).cost()


def depthwise_separable(shape: Shape) -> Cost | None:
    """A depthwise convolution and a 1x1 one: :class:`mmkerv.ops.DepthwiseSeparableConv2d`.

    Example:
        >>> depthwise_separable(Shape(256, 256, (5, 5), 1, 1, 1, 1)).weights == 256 * 25 + 256**2
        True
    """
    if shape.groups == shape.inputs:
        return None
    depthwise = shape._replace(outputs=shape.inputs, groups=shape.inputs)
    return depthwise.cost() + shape._replace(kernel=(1, 1)).cost()


def spatially_separable(shape: Shape) -> Cost | None:
    """Rows and then columns: :class:`mmkerv.ops.SpatiallySeparableConv2d`.

    Example:
        >>> spatially_separable(Shape(256, 256, (3, 3), 1, 1, 1, 1)).weights == 2 * 3 * 256**2
        True
    """
    if min(shape.kernel) == 1:
        return None
    middle, (rows, columns) = min(shape.inputs, shape.outputs), shape.kernel
    vertical = shape._replace(outputs=middle, kernel=(rows, 1), after=shape.between)
    return vertical.cost() + shape._replace(inputs=middle, kernel=(1, columns)).cost()


def bottleneck(shape: Shape) -> Cost | None:
    """The same kernel on an eighth of the channels, between two 1x1 convolutions.

    Example:
        >>> bottleneck(Shape(256, 256, (3, 3), 1, 1, 1, 1)).weights
        25600
    """
    if shape.groups != 1:
        return None
    narrow = max(1, min(shape.inputs, shape.outputs) // NARROWING)
    into = shape._replace(outputs=narrow, kernel=(1, 1), after=shape.before)
    out = shape._replace(inputs=narrow, kernel=(1, 1))
    return into.cost() + shape._replace(inputs=narrow, outputs=narrow).cost() + out.cost()


FORMS: dict[str, Callable[[Shape], Cost | None]] = {
    'stacked 3x3': stacked,
    f'{GROUPS} groups': grouped,
    'depthwise separable': depthwise_separable,
    'spatially separable': spatially_separable,
    f'bottleneck 1/{NARROWING}': bottleneck,
}


def forms(shape: Shape) -> dict[str, Cost]:
    """Return what each form that exists for a convolution would cost; a 1x1 convolution has none.

    Example:
        >>> {name: cost.weights for name, cost in forms(Shape(64, 64, (3, 3), 1, 1, 1, 1)).items()}
        {'2 groups': 18432, 'depthwise separable': 4672, 'spatially separable': 24576, 'bottleneck 1/8': 1600}
    """
    if max(shape.kernel) == 1:
        return {}
    found = {name: form(shape) for name, form in FORMS.items()}
    return {name: cost for name, cost in found.items() if cost is not None}
