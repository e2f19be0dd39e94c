"""Kolmogorov-Arnold convolution: a learned function of one number for each weight of a kernel."""

from mmkerv.ops.kan.module import KANConv, KANConv2d

__all__ = ['KANConv', 'KANConv2d']
