"""Operators: drop-in replacements of convolutions. Needs torch alone."""

from .association import spatial_association
from .coc import CoCConv, CoCConv2d
from .deploy import DeployReport, switch_to_deploy
from .frozen import frozen_kernels
from .generated import FoldError

__all__ = [
    'CoCConv',
    'CoCConv2d',
    'DeployReport',
    'FoldError',
    'frozen_kernels',
    'spatial_association',
    'switch_to_deploy',
]
