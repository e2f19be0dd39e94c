"""Checks of a patch kernel's hyperparameters."""

from typing import Any

from torch import Tensor

from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.ops.core import arguments
from mmkerv.ops.kerv.registry import DEFAULTS, PatchKernel

# The smallest value that projection leaves a hyperparameter; those not named are above zero, as gamma is.
MINIMUM = {'balance': 0.0}
ABOVE_ZERO = 1e-8


def checked_hyperparameters(
    rule: PatchKernel, fan_in: int, given: dict[str, Any], tensors: bool = False
) -> dict[str, Any]:
    """Return the value of each hyperparameter of ``rule``: those of ``given``, and defaults for the others.

    Args:
        rule: the kernel.
        fan_in: elements of a filter; ``gamma='auto'`` is 1/fan_in.
        given: values by name.
        tensors: take a tensor for a real hyperparameter, as it is: to look at its value would wait for the device.

    Raises:
        ValueError: for a value that breaks its rule, or one for a hyperparameter that ``rule`` lacks, unless it is the
            default of ``KervConv``.
        TypeError: for an unknown name or a value of the wrong type.

    Example:
        >>> from mmkerv.ops.kerv.registry import find_kernel
        >>> checked_hyperparameters(find_kernel('gaussian'), 4, {})
        {'gamma': 0.25}
    """
    known = (*DEFAULTS, *(name for name in rule.hyperparameters if name not in DEFAULTS))
    arguments.reject_unknown(f'the kernel {rule.name!r}', [name for name in given if name not in known], known)
    values = {}
    for name in known:
        default = rule.hyperparameters.get(name, DEFAULTS.get(name))
        value = given.get(name, default)
        as_it_is = tensors and isinstance(value, Tensor) and not isinstance(default, int)
        checked = value if as_it_is else _checked(name, value, default, fan_in)
        if name in rule.hyperparameters:
            values[name] = checked
        elif as_it_is or value != default:
            own = ', '.join(rule.hyperparameters) or 'none'
            raise ArgumentError(
                f'the kernel {rule.name!r} has no {name}, got {name}={value!r}; leave it out. It has: {own}'
            )
    return values


def _checked(name: str, value: Any, default: Any, fan_in: int) -> Any:
    if name == 'gamma' and value == 'auto':
        return 1 / max(fan_in, 1)
    if name == 'gamma' and isinstance(value, str):
        raise ArgumentError(f"gamma must be a number > 0, or 'auto' (1/fan_in), got {value!r}")
    if isinstance(default, int):
        try:
            return arguments.integer(value, name, 1 if name == 'degree' else 0)
        except ArgumentTypeError as error:
            # A power of 2.5 is a number the kernel cannot take, rather than no number.
            raise ArgumentError(str(error)) from None
    minimum = MINIMUM.get(name)
    return arguments.real(value, name, minimum or 0, above=minimum is None)
