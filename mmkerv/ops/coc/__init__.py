"""Convolution of convolution (CoC)."""

from mmkerv.ops.coc.functional import spatial_association
from mmkerv.ops.coc.module import CoCConv, CoCConv2d
from mmkerv.ops.coc.options import CoCOptions

__all__ = ['CoCConv', 'CoCConv2d', 'CoCOptions', 'spatial_association']
