"""Operators: drop-in replacements of convolutions. Needs torch alone."""

from mmkerv.errors import FoldError
from mmkerv.ops.ckconv import CKConv, CKConv1d, CKConv2d, FlexConv, continuous_kernel, set_resolution
from mmkerv.ops.coc import CoCConv, CoCConv2d, spatial_association
from mmkerv.ops.condconv import CondConv, CondConv2d
from mmkerv.ops.core.fold import DeployReport, switch_to_deploy
from mmkerv.ops.core.frozen import frozen_kernels
from mmkerv.ops.dcls import DCLSConv, DCLSConv2d
from mmkerv.ops.fdconv import FDConv, FDConv2d
from mmkerv.ops.folded_conv import FoldedConv
from mmkerv.ops.inception_dw import InceptionDWConv, InceptionDWConv2d
from mmkerv.ops.kan import KANConv, KANConv2d
from mmkerv.ops.kerv import KervConv, KervConv1d, KervConv2d, KervConv3d, kerv1d, kerv2d, kerv3d, register_kernel
from mmkerv.ops.lightweight import LightweightConv1d
from mmkerv.ops.lowrank import LowRankConv, LowRankConv2d
from mmkerv.ops.mixconv import MixConv, MixConv2d
from mmkerv.ops.pconv import PConv, PConv2d
from mmkerv.ops.recconv import RecConv, RecConv2d
from mmkerv.ops.reparam import ReparamConv, ReparamConv2d
from mmkerv.ops.separable import (
    DepthwiseSeparableConv,
    DepthwiseSeparableConv2d,
    SpatiallySeparableConv,
    SpatiallySeparableConv2d,
    StackedConv,
    StackedConv2d,
)
from mmkerv.ops.shiftwise import ShiftwiseConv, ShiftwiseConv2d
from mmkerv.ops.smpconv import SMPConv, SMPConv2d
from mmkerv.ops.weighted import WeightedConv, WeightedConv2d

__all__ = [
    'CKConv',
    'CKConv1d',
    'CKConv2d',
    'CoCConv',
    'CoCConv2d',
    'CondConv',
    'CondConv2d',
    'DCLSConv',
    'DCLSConv2d',
    'DeployReport',
    'DepthwiseSeparableConv',
    'DepthwiseSeparableConv2d',
    'FDConv',
    'FDConv2d',
    'FlexConv',
    'FoldError',
    'FoldedConv',
    'InceptionDWConv',
    'InceptionDWConv2d',
    'KANConv',
    'KANConv2d',
    'KervConv',
    'KervConv1d',
    'KervConv2d',
    'KervConv3d',
    'LightweightConv1d',
    'LowRankConv',
    'LowRankConv2d',
    'MixConv',
    'MixConv2d',
    'PConv',
    'PConv2d',
    'RecConv',
    'RecConv2d',
    'ReparamConv',
    'ReparamConv2d',
    'SMPConv',
    'SMPConv2d',
    'ShiftwiseConv',
    'ShiftwiseConv2d',
    'SpatiallySeparableConv',
    'SpatiallySeparableConv2d',
    'StackedConv',
    'StackedConv2d',
    'WeightedConv',
    'WeightedConv2d',
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
