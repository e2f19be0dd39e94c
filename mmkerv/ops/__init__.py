"""Operators: drop-in replacements of convolutions. Needs torch alone."""

from mmkerv.errors import FoldError
from mmkerv.ops.ckconv import CKConv, CKConv1d, CKConv2d, continuous_kernel, set_resolution
from mmkerv.ops.coc import CoCConv, CoCConv2d, spatial_association
from mmkerv.ops.core.fold import DeployReport, switch_to_deploy
from mmkerv.ops.core.frozen import frozen_kernels
from mmkerv.ops.folded_conv import FoldedConv
from mmkerv.ops.kerv import KervConv, KervConv1d, KervConv2d, KervConv3d, kerv1d, kerv2d, kerv3d, register_kernel
from mmkerv.ops.separable import (
    DepthwiseSeparableConv,
    DepthwiseSeparableConv2d,
    SpatiallySeparableConv,
    SpatiallySeparableConv2d,
    StackedConv,
    StackedConv2d,
)

__all__ = [
    'CKConv',
    'CKConv1d',
    'CKConv2d',
    'CoCConv',
    'CoCConv2d',
    'DeployReport',
    'DepthwiseSeparableConv',
    'DepthwiseSeparableConv2d',
    'FoldError',
    'FoldedConv',
    'KervConv',
    'KervConv1d',
    'KervConv2d',
    'KervConv3d',
    'SpatiallySeparableConv',
    'SpatiallySeparableConv2d',
    'StackedConv',
    'StackedConv2d',
    'continuous_kernel',
    'frozen_kernels',
    'kerv1d',
    'kerv2d',
    'kerv3d',
    'register_kernel',
    'set_resolution',
    'spatial_association',
    'switch_to_deploy',
]
