"""What mmengine's runner needs for these operators: safe reading, whole writing, hooks, folding. Needs mmengine."""

from .atomic import atomic_path, install_atomic_writes
from .checkpoint_match import CheckpointMatchHook, CheckpointMismatchError, match_checkpoint, require_match
from .frozen_kernels_hook import FrozenKernelsHook
from .frozen_operators_hook import FrozenOperatorsHook
from .kernel_regularizer import KernelL2Hook, KernelRegularizerHook
from .kervolution_guard import KervolutionGuardHook, KervolutionOverflowError
from .loading import UnsafeCheckpointError, install_safe_loading, safe_load
from .orthogonality import OrthogonalityHook
from .pretrained import install_pretrained_report, require_pretrained
from .resolution_hook import ResolutionHook

__all__ = [
    'CheckpointMatchHook',
    'CheckpointMismatchError',
    'FrozenKernelsHook',
    'FrozenOperatorsHook',
    'KernelL2Hook',
    'KernelRegularizerHook',
    'KervolutionGuardHook',
    'KervolutionOverflowError',
    'OrthogonalityHook',
    'ResolutionHook',
    'UnsafeCheckpointError',
    'atomic_path',
    'install_atomic_writes',
    'install_pretrained_report',
    'install_safe_loading',
    'match_checkpoint',
    'require_match',
    'require_pretrained',
    'safe_load',
]
