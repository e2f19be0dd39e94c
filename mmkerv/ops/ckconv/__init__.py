"""Continuous-kernel convolution (CKConv)."""

from mmkerv.ops.ckconv.base import ContinuousKernel, set_resolution
from mmkerv.ops.ckconv.conv1d import CKConv1d
from mmkerv.ops.ckconv.conv2d import CKConv, CKConv2d, FlexConv
from mmkerv.ops.ckconv.kernel_net import continuous_kernel
from mmkerv.ops.ckconv.options import PERIODIC, CKOptions

__all__ = [
    'PERIODIC',
    'CKConv',
    'CKConv1d',
    'CKConv2d',
    'CKOptions',
    'ContinuousKernel',
    'FlexConv',
    'continuous_kernel',
    'set_resolution',
]
