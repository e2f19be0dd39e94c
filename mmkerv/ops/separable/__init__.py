"""Depthwise separable and spatially separable convolutions."""

from mmkerv.ops.separable.depthwise import DepthwiseSeparableConv, DepthwiseSeparableConv2d
from mmkerv.ops.separable.spatial import SpatiallySeparableConv, SpatiallySeparableConv2d

__all__ = [
    'DepthwiseSeparableConv',
    'DepthwiseSeparableConv2d',
    'SpatiallySeparableConv',
    'SpatiallySeparableConv2d',
]
