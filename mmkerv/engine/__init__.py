"""Training, checkpoints and configs for mmengine: the verbs a user calls, and the hooks. Needs mmengine.

Hooks are registered in scope ``mmkerv`` when this module is imported. Importing it changes no library;
:func:`apply_patches` does.
"""

from mmkerv.engine.checkpoint.atomic_write import atomic_path, save_checkpoint
from mmkerv.engine.checkpoint.convert_plain import convert_checkpoint
from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.engine.checkpoint.layout_hook import CheckpointLayoutHook
from mmkerv.engine.checkpoint.match import CheckpointMatchHook, match_checkpoint, require_match
from mmkerv.engine.checkpoint.pretrained import require_pretrained
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.config.patches import apply_patches, patched, undo_patches
from mmkerv.engine.config.prepare import build_runner
from mmkerv.engine.config.read import load_config
from mmkerv.engine.data_checks.label_range_hook import LabelRangeHook
from mmkerv.engine.hooks.check_frozen_operators_hook import CheckFrozenOperatorsHook
from mmkerv.engine.hooks.finite_checkpoint_hook import FiniteCheckpointHook
from mmkerv.engine.hooks.finite_features_hook import FiniteFeaturesHook
from mmkerv.engine.hooks.frozen_kernels_hook import FrozenKernelsHook
from mmkerv.engine.hooks.kernel_regularizer_hook import KernelL2Hook, KernelRegularizerHook
from mmkerv.engine.hooks.kervolution_guard_hook import KervolutionGuardHook
from mmkerv.engine.hooks.loss_guard_hook import LossGuardHook
from mmkerv.engine.hooks.operator_report_hook import OperatorReportHook
from mmkerv.engine.hooks.orthogonality_hook import OrthogonalityHook
from mmkerv.engine.hooks.rank_truncation_hook import RankTruncationHook
from mmkerv.engine.hooks.repulsion_hook import RepulsionHook
from mmkerv.engine.hooks.resolution_hook import ResolutionHook
from mmkerv.engine.initialisers import ConvolutionAwareInit, DepthwiseStructuredInit
from mmkerv.engine.optim.conv_muon import ConvMuon
from mmkerv.engine.optim.conv_muon_constructor import ConvMuonConstructor
from mmkerv.engine.optim.layer_decay import LayerDecayConstructor
from mmkerv.engine.optim.operator_rules import OperatorRulesConstructor
from mmkerv.engine.resume.deferred_removal_hook import DeferredRemovalHook
from mmkerv.engine.resume.exact_resume_hook import ExactResumeHook
from mmkerv.engine.resume.latest_checkpoint import latest_checkpoint
from mmkerv.engine.resume.pending_evaluation_hook import PendingEvaluationHook
from mmkerv.engine.resume.stop_signal_hook import StopSignalHook
from mmkerv.errors import (
    CheckpointMismatchError,
    DeadKernelError,
    DivergedError,
    KervolutionOverflowError,
    LossExplosionError,
    NonFiniteFeaturesError,
    NonFiniteWeightsError,
    TrainingGuardError,
    UnsafeCheckpointError,
)

__all__ = [
    'CheckFrozenOperatorsHook',
    'CheckpointLayoutHook',
    'CheckpointMatchHook',
    'CheckpointMismatchError',
    'ConvMuon',
    'ConvMuonConstructor',
    'ConvolutionAwareInit',
    'DeadKernelError',
    'DeferredRemovalHook',
    'DepthwiseStructuredInit',
    'DivergedError',
    'ExactResumeHook',
    'FiniteCheckpointHook',
    'FiniteFeaturesHook',
    'FrozenKernelsHook',
    'KernelL2Hook',
    'KernelRegularizerHook',
    'KervolutionGuardHook',
    'KervolutionOverflowError',
    'LabelRangeHook',
    'LayerDecayConstructor',
    'LossExplosionError',
    'LossGuardHook',
    'NonFiniteFeaturesError',
    'NonFiniteWeightsError',
    'OperatorReportHook',
    'OperatorRulesConstructor',
    'OrthogonalityHook',
    'PendingEvaluationHook',
    'RankTruncationHook',
    'RepulsionHook',
    'ResolutionHook',
    'StopSignalHook',
    'TrainingGuardError',
    'UnsafeCheckpointError',
    'apply_patches',
    'atomic_path',
    'build_runner',
    'convert_checkpoint',
    'latest_checkpoint',
    'load_config',
    'match_checkpoint',
    'patched',
    'require_finite',
    'require_match',
    'require_pretrained',
    'safe_load',
    'save_checkpoint',
    'undo_patches',
]
