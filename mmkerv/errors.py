"""Errors that a user can fix: all derive from ``UserError``, and each from the built-in error it is a kind of.

The command-line tools print them as one line and show a traceback for anything else. This module imports nothing.
"""


class UserError(Exception):
    """Base of the errors that a user can fix; the message says how."""


class ArgumentError(UserError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(UserError, TypeError):
    """An argument has a type that cannot be used, or is unknown."""


class EvenKernelError(ArgumentError):
    """A kernel has an even size, and the operator has one that must be centred."""


class UndefinedStatisticError(UserError, ValueError):
    """A statistic is not defined for a kernel; the message is the reason."""


class InputTypeError(UserError, RuntimeError):
    """A layer's input has another type than its parameters; a RuntimeError, as torch's convolutions raise."""


class FoldError(UserError, RuntimeError):
    """An operator has no equal plain convolution, or has hooks that folding would lose."""


class FoldCheckError(UserError, RuntimeError):
    """A folded network does not compute what the network computed before, or has nothing to fold."""


class ExportCheckError(UserError, RuntimeError):
    """An exported file does not compute what the network computes."""


class ConfigError(UserError, ValueError):
    """A config file cannot be read, or a config or a flag asks for something that is not there."""


class DataError(UserError, RuntimeError):
    """A file of the data cannot be used; the message names it."""


class CheckpointMismatchError(UserError, RuntimeError):
    """A checkpoint belongs to another network than the config's."""


class UnsafeCheckpointError(UserError, RuntimeError):
    """A checkpoint is damaged, or names something other than weights and mmengine's records."""


class NonFiniteWeightsError(UserError, RuntimeError):
    """A checkpoint holds NaN or infinite parameters, or tensors that are not plain numbers."""


class InstallationError(UserError, ImportError):
    """A library is missing, unusable, or mixed with the other distribution's; the message says what to install."""


class TrainingGuardError(UserError, FloatingPointError):
    """Base of the errors that stop a training run whose numbers have become useless."""


class DivergedError(TrainingGuardError):
    """The network holds NaN or infinite numbers."""


class LossExplosionError(TrainingGuardError):
    """The loss is NaN, infinite or above the threshold."""


class NonFiniteFeaturesError(TrainingGuardError):
    """A backbone computes NaN or infinite features, in training or evaluation."""


class KervolutionOverflowError(TrainingGuardError):
    """The response of a kervolution is infinite or NaN."""


class DeadKernelError(TrainingGuardError):
    """All responses of a gaussian or laplacian kervolution are 0 or nearly so, and so are its gradients."""
