"""Operators: drop-in replacements of convolutions. Needs torch alone."""

from . import kernel_library as _kernel_library  # noqa: F401 it registers its kernels
from .association import spatial_association
from .coc import CoCConv, CoCConv2d
from .deploy import DeployReport, switch_to_deploy
from .frozen import frozen_kernels
from .generated import FoldError
from .kerv import KervConv, KervConv1d, KervConv2d, KervConv3d
from .kervolution import kerv1d, kerv2d, kerv3d
from .patch_kernels import register_kernel

__all__ = [
    'CoCConv',
    'CoCConv2d',
    'DeployReport',
    'FoldError',
    'KervConv',
    'KervConv1d',
    'KervConv2d',
    'KervConv3d',
    'frozen_kernels',
    'kerv1d',
    'kerv2d',
    'kerv3d',
    'register_kernel',
    'spatial_association',
    'switch_to_deploy',
]
