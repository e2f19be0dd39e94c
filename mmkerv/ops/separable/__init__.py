"""Depthwise separable, spatially separable and stacked convolutions."""

from mmkerv.ops.separable.depthwise import DepthwiseSeparableConv, DepthwiseSeparableConv2d
from mmkerv.ops.separable.spatial import SpatiallySeparableConv, SpatiallySeparableConv2d
from mmkerv.ops.separable.stacked import StackedConv, StackedConv2d

__all__ = [
    'DepthwiseSeparableConv',
    'DepthwiseSeparableConv2d',
    'SpatiallySeparableConv',
    'SpatiallySeparableConv2d',
    'StackedConv',
    'StackedConv2d',
]
