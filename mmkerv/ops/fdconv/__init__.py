"""Frequency dynamic convolution (CVPR 2025): frequency bands of one kernel, scaled for each image."""

from mmkerv.ops.fdconv.module import FDConv, FDConv2d

__all__ = ['FDConv', 'FDConv2d']
