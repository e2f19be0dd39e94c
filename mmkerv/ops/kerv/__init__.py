"""Kervolution: convolution with a kernel function in place of the inner product."""

# Importing `kernels` registers the built-in kernels.
from mmkerv.ops.kerv import kernels
from mmkerv.ops.kerv.functional import LINEAR, kerv1d, kerv2d, kerv3d, kervolve
from mmkerv.ops.kerv.module import KervConv, KervConv1d, KervConv2d, KervConv3d, Kervolution
from mmkerv.ops.kerv.registry import KERNELS, checked_hyperparameters, find_kernel, register_kernel

__all__ = [
    'KERNELS',
    'LINEAR',
    'KervConv',
    'KervConv1d',
    'KervConv2d',
    'KervConv3d',
    'Kervolution',
    'checked_hyperparameters',
    'find_kernel',
    'kernels',
    'kerv1d',
    'kerv2d',
    'kerv3d',
    'kervolve',
    'register_kernel',
]
