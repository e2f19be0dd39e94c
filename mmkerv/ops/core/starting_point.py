"""How an operator starts, in words."""

from mmkerv.ops.core.base import ConvNd

AS_PLAIN = 'as the plain convolution'
WITH_WEIGHT = "with the plain layer's weight, but not as the plain convolution"
AT_RANDOM = 'with random kernels'
DECOMPOSED = 'with random kernels, unless it decomposes a plain weight that is loaded'


def starting_point(operator: ConvNd) -> str:
    """Return how a fresh layer starts, in words.

    Example:
        >>> from mmkerv.ops import CKConv2d, CoCConv2d
        >>> starting_point(CoCConv2d(3, 8, 3)), starting_point(CKConv2d(3, 8, 3))
        ('as the plain convolution', 'with random kernels')
    """
    if operator.starts_as_identity:
        return AS_PLAIN
    if getattr(operator, 'weight', None) is not None:
        return WITH_WEIGHT
    return DECOMPOSED if operator.decomposes_weight else AT_RANDOM
