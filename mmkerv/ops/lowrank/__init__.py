"""Low-rank convolution, and the decompositions of kernels that it starts from."""

from mmkerv.ops.lowrank.module import LowRankConv, LowRankConv2d

__all__ = ['LowRankConv', 'LowRankConv2d']
