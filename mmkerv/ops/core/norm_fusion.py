"""Recognise torch's function that fuses a batch norm into a copy of a convolution."""

import sys

from torch.nn.utils.fusion import fuse_conv_bn_eval

# Frames from this module to that function, at most: the method that asks, one of a subclass that has called it,
# `copy.deepcopy`, the function.
_DEPTH = 4


def is_fusing_norm() -> bool:
    """Return ``True`` if ``torch.nn.utils.fuse_conv_bn_eval`` is copying the layer whose method asks.

    It reads ``weight`` and ``bias`` of the copy as its kernel and bias, and replaces both.

    Example:
        >>> is_fusing_norm()
        False
    """
    frame = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame is None:
            return False
        if frame.f_code is fuse_conv_bn_eval.__code__:
            return True
        frame = frame.f_back
    return False
