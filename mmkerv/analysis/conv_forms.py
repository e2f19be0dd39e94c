"""Cost of other forms of a convolution: stacked, grouped, separable, bottleneck.

The forms and their numbers of weights are those of Chazareix, "How to optimize Convolutional Layer with Convolution
Kernel" (2022), which, as this module, leaves out biases. A k x k convolution of c channels has k^2 c^2 weights.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

# As in the article's examples: how many times more groups, and how many times fewer channels.
GROUPS = 2
NARROWING = 8


class Cost(NamedTuple):
    """Number of weights, and multiply-adds of one image.

    Example:
        >>> Cost(9, 9) + Cost(1, 4)
        Cost(weights=10, macs=13)
    """

    weights: int
    macs: int

    def __add__(self, other: 'Cost') -> 'Cost':
        return Cost(self.weights + other.weights, self.macs + other.macs)


class Shape(NamedTuple):
    """Sizes of a two-dimensional convolution that determine its cost.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: height and width of the kernel.
        groups: number of channel groups.
        before: positions of the input (height x width, summed over all calls).
        between: positions after the vertical half of a separable convolution (height of the output x width of the
            input, summed over all calls).
        after: positions of the output (height x width, summed over all calls).

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
        """Return the weights and multiply-adds of the convolution itself."""
        weights = self.outputs * self.inputs // self.groups * math.prod(self.kernel)
        return Cost(weights, weights * self.after)


def stacked(shape: Shape) -> Cost | None:
    """Return the cost of a stack of 3x3 convolutions with the same receptive field; the first one has the stride.

    Example:
        >>> stacked(Shape(1, 1, (5, 5), 1, 1, 1, 1)).weights
        18
    """
    if max(shape.kernel) < 5 or any(k % 2 == 0 for k in shape.kernel):
        return None
    small = shape._replace(kernel=tuple(min(k, 3) for k in shape.kernel))
    further = small._replace(inputs=shape.outputs)
    layers = (max(shape.kernel) - 1) // 2
    return sum((further.cost() for _ in range(layers - 1)), small.cost())


def grouped(shape: Shape) -> Cost | None:
    """Return the cost with twice as many groups.

    Example:
        >>> grouped(Shape(512, 512, (3, 3), 1, 1, 1, 1)).weights == 2 * 9 * 256**2
        True
    """
    groups = shape.groups * GROUPS
    if shape.inputs % groups or shape.outputs % groups:
        return None
    return shape._replace(groups=groups).cost()


def depthwise_separable(shape: Shape) -> Cost | None:
    """Return the cost of a depthwise and a 1x1 convolution, as :class:`mmkerv.ops.DepthwiseSeparableConv2d`.

    Example:
        >>> depthwise_separable(Shape(256, 256, (5, 5), 1, 1, 1, 1)).weights == 256 * 25 + 256**2
        True
    """
    if shape.groups == shape.inputs:
        return None
    depthwise = shape._replace(outputs=shape.inputs, groups=shape.inputs)
    return depthwise.cost() + shape._replace(kernel=(1, 1)).cost()


def spatially_separable(shape: Shape) -> Cost | None:
    """Return the cost of a vertical and a horizontal convolution, as :class:`mmkerv.ops.SpatiallySeparableConv2d`.

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
    """Return the cost of the same kernel on an eighth of the channels between two 1x1 convolutions.

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
    """Return the cost of each form that exists for a convolution; a 1x1 convolution has none.

    Example:
        >>> {name: cost.weights for name, cost in forms(Shape(64, 64, (3, 3), 1, 1, 1, 1)).items()}
        {'2 groups': 18432, 'depthwise separable': 4672, 'spatially separable': 24576, 'bottleneck 1/8': 1600}
    """
    if max(shape.kernel) == 1:
        return {}
    costs = {name: form(shape) for name, form in FORMS.items()}
    return {name: cost for name, cost in costs.items() if cost is not None}
