"""Operators: drop-in replacements of convolutions. Needs torch alone."""

from . import kernel_library as _kernel_library  # noqa: F401 it registers its kernels
from .association import spatial_association
from .ckconv import CKConv, CKConv2d
from .ckconv1d import CKConv1d
from .coc import CoCConv, CoCConv2d
from .deploy import DeployReport, switch_to_deploy
from .depthwise_separable import DepthwiseSeparableConv, DepthwiseSeparableConv2d
from .folded import FoldedConv
from .frozen import frozen_kernels
from .generated import FoldError
from .kernel_net import continuous_kernel
from .kerv import KervConv, KervConv1d, KervConv2d, KervConv3d
from .kervolution import kerv1d, kerv2d, kerv3d
from .patch_kernels import register_kernel
from .resolution import set_resolution
from .spatially_separable import SpatiallySeparableConv, SpatiallySeparableConv2d

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
