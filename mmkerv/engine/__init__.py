"""What mmengine's runner needs for these operators: safe reading, whole writing, hooks, folding. Needs mmengine."""

from .atomic import atomic_path, install_atomic_writes, save_checkpoint
from .checkpoint_match import CheckpointMatchHook, CheckpointMismatchError, match_checkpoint, require_match
from .due_evaluation_hook import DueEvaluationHook
from .exact_resume_hook import ExactResumeHook
from .frozen_kernels_hook import FrozenKernelsHook
from .frozen_operators_hook import FrozenOperatorsHook
from .keep_written_hook import KeepWrittenHook
from .kernel_regularizer import KernelL2Hook, KernelRegularizerHook
from .kernel_visualization_hook import KernelVisualizationHook
from .kervolution_guard import DeadKernelError, KervolutionGuardHook, KervolutionOverflowError, TrainingGuardError
from .label_range_hook import LabelRangeHook
from .loading import UnsafeCheckpointError, install_safe_loading, safe_load
from .loss_guard import LossExplosionError, LossGuardHook
from .orthogonality import OrthogonalityHook
from .pretrained import install_pretrained_report, require_pretrained
from .resolution_hook import ResolutionHook
from .sound_checkpoint_hook import DivergedError, SoundCheckpointHook
from .sound_weights import UnsoundWeightsError, require_sound
from .stop_signal_hook import StopSignalHook

__all__ = [
    'CheckpointMatchHook',
    'CheckpointMismatchError',
    'DeadKernelError',
    'DivergedError',
    'DueEvaluationHook',
    'ExactResumeHook',
    'FrozenKernelsHook',
    'FrozenOperatorsHook',
    'KeepWrittenHook',
    'KernelL2Hook',
    'KernelRegularizerHook',
    'KernelVisualizationHook',
    'KervolutionGuardHook',
    'KervolutionOverflowError',
    'LabelRangeHook',
    'LossExplosionError',
    'LossGuardHook',
    'OrthogonalityHook',
    'ResolutionHook',
    'SoundCheckpointHook',
    'StopSignalHook',
    'TrainingGuardError',
    'UnsafeCheckpointError',
    'UnsoundWeightsError',
    'atomic_path',
    'install_atomic_writes',
    'install_pretrained_report',
    'install_safe_loading',
    'match_checkpoint',
    'require_match',
    'require_pretrained',
    'require_sound',
    'safe_load',
    'save_checkpoint',
]
