"""Registry of the kernels of kervolution, with the decorator that adds one and the checks of hyperparameters.

y_i = f(s), f(d2) or f(d1), with s = <x_i, w>, d2 = |x_i - w|^2, d1 = sum |x_i - w| for a patch x_i and a filter w.
"""

import inspect
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d

FAMILIES = {'dot': 's', 'radial': 'd2', 'manhattan': 'd1'}
# Hyperparameters that are arguments of KervConv, with their defaults. Any others have the default in the signature of
# the kernel's function.
DEFAULTS = {'degree': 3, 'balance': 1.0, 'gamma': 'auto'}
NORMS = ('x2', 'w2')
# Lower bounds of learned hyperparameters. Those not listed, such as gamma, must stay positive.
MINIMUM = {'balance': 0.0}
ABOVE_ZERO = 1e-8
# Names that already have a meaning in KervConv.
_RESERVED = {
    *('weight', 'bias', 'kernel', 'kernel_name', 'kernel_size', 'stride', 'padding', 'dilation', 'groups'),
    *('padding_mode', 'in_channels', 'out_channels', 'device', 'dtype', 'learnable', 'per_channel', 'chunk_mib'),
    *('input', 'training', 'watched', 'largest_product', 'options', 'hyperparameters'),
}


class PatchKernel(NamedTuple):
    """Registered kernel: y = function(s), function(d2) or function(d1), depending on its family.

    Example:
        >>> from mmkerv.ops.kerv.registry import KERNELS
        >>> KERNELS['gaussian'].family, KERNELS['gaussian'].hyperparameters
        ('radial', {'gamma': 'auto'})
    """

    name: str
    family: str
    function: Callable[..., Tensor]
    hyperparameters: dict[str, Any]
    needs_norms: bool

    @property
    def learnable(self) -> tuple[str, ...]:
        """Names of the real hyperparameters, which can be learned.

        Example:
            >>> KERNELS['polynomial'].learnable
            ('balance',)
        """
        return tuple(name for name, default in self.hyperparameters.items() if not isinstance(default, int))

    def probe(self, values: dict[str, Any]) -> None:
        """Call the function on one element, so that values it rejects raise when a layer is built.

        Args:
            values: hyperparameters, by name.

        Raises:
            ValueError: if the response has the wrong shape, or as raised by the function itself.

        Example:
            >>> KERNELS['gaussian'].probe({'gamma': 1.0})
        """
        one = torch.ones(1, device='cpu')
        with torch.no_grad():
            response = self.function(one, **values, **(dict.fromkeys(NORMS, one) if self.needs_norms else {}))
        if not isinstance(response, Tensor) or response.shape != one.shape:
            raise ArgumentError(
                f'kernel {self.name!r} must return a tensor of the shape of its first argument, got '
                f'{tuple(response.shape) if isinstance(response, Tensor) else response!r} for {tuple(one.shape)}'
            )


KERNELS: dict[str, PatchKernel] = {}


def register_kernel(name: str, family: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    r"""Return a decorator that registers a function as the kernel of ``KervConv(kernel=name)``.

    :math:`y_i = f(s)` with :math:`s = \langle x_i, w \rangle` for family ``'dot'``, :math:`y_i = f(d^2)` with
    :math:`d^2 = |x_i - w|^2` for ``'radial'``, :math:`y_i = f(d_1)` with :math:`d_1 = \sum |x_i - w|` for
    ``'manhattan'``.

    The function acts elementwise on a tensor (N, O, *spatial) in float32 or float64, uses differentiable operations of
    torch, and returns a tensor of the same shape. Its other arguments are the kernel's hyperparameters: ``degree`` (an
    integer >= 1), ``balance`` (>= 0) and ``gamma`` (> 0) have the defaults of ``KervConv``; any other must have a
    default in the signature: a float > 0 (the hyperparameter can then be learned and must be > 0) or an integer >= 0.
    A function of s that has the arguments ``x2`` and ``w2`` also receives :math:`|x_i|^2` and :math:`|w|^2`, which
    broadcast with s.

    Args:
        name: value of ``kernel=`` that selects the kernel.
        family: ``'dot'``, ``'radial'`` or ``'manhattan'``.

    Raises:
        ValueError: for an unknown family, a name that is taken, or a function with invalid arguments.
        TypeError: if ``name`` is not a string, or the function is not callable.

    Source: Kervolutional Neural Networks, CVPR 2019, equation 5 and section 3.3.

    Example:
        >>> import torch
        >>> from mmkerv.ops import KervConv2d
        >>> @register_kernel('inverse multiquadric', family='radial')
        ... def inverse_multiquadric(d2, *, gamma):
        ...     return (1 + gamma * d2).rsqrt()
        >>> KervConv2d(3, 8, 3, kernel='inverse multiquadric')(torch.randn(1, 3, 5, 5)).shape
        torch.Size([1, 8, 3, 3])
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f'name of a kernel must be a string, got {name!r} ({type(name).__name__})')
    arguments.one_of(family, 'family', tuple(FAMILIES))

    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if not callable(function):
            raise ArgumentTypeError(f'kernel {name!r} must be a function, got {function!r}')
        taken = KERNELS.get(name)
        # The same function is registered twice when its module is imported again.
        if taken is not None and _qualified_name(taken.function) != _qualified_name(function):
            raise ArgumentError(
                f'name of a kernel must be new, got {name!r}, which is {_qualified_name(taken.function)}'
            )
        parameters = list(inspect.signature(function).parameters.values())[1:]
        norms = [p.name for p in parameters if p.name in NORMS]
        if norms and (family != 'dot' or len(norms) != len(NORMS)):
            raise ArgumentError(f"kernel {name!r} takes {norms}: x2 and w2 go together, in a kernel of family 'dot'")
        hyperparameters = {p.name: _default(name, p) for p in parameters if p.name not in NORMS}
        KERNELS[name] = PatchKernel(name, family, function, hyperparameters, bool(norms))
        return function

    return add


def _qualified_name(function: Callable) -> str:
    return f'{function.__module__}.{function.__qualname__}'


def _default(name: str, parameter: inspect.Parameter) -> Any:
    """Return the default of a hyperparameter of kernel ``name``, or raise if the parameter cannot be one."""
    if parameter.name in DEFAULTS:
        return DEFAULTS[parameter.name]
    default = parameter.default
    if parameter.name in _RESERVED or hasattr(Conv2d, parameter.name):
        raise ArgumentError(
            f'kernel {name!r} has an argument {parameter.name!r}, which means something else in KervConv; rename it'
        )
    integer = isinstance(default, int)
    if isinstance(default, bool) or not isinstance(default, Real) or default < 0 or (default == 0 and not integer):
        raise ArgumentError(
            f'argument {parameter.name!r} of kernel {name!r} needs a default: a float > 0, which can be learned, or an '
            f'integer >= 0; got {"none" if default is inspect.Parameter.empty else repr(default)}'
        )
    return default


def find_kernel(name: Any) -> PatchKernel:
    """Return the kernel called ``name``.

    Raises:
        ValueError: if there is none; the message lists the known kernels and suggests the closest.

    Example:
        >>> find_kernel('l2').family
        'radial'
    """
    return KERNELS[arguments.one_of(name, 'kernel', tuple(KERNELS))]


def checked_hyperparameters(
    kernel: PatchKernel, fan_in: int, values: dict[str, Any], tensors: bool = False
) -> dict[str, Any]:
    """Return a checked value for each hyperparameter of ``kernel``: from ``values``, or its default.

    Args:
        kernel: kernel that the values are for.
        fan_in: number of elements of a filter; ``gamma='auto'`` is 1/fan_in.
        values: hyperparameters, by name.
        tensors: accept a tensor for a real hyperparameter without checking its values, which would make the CPU wait
            for the device.

    Raises:
        ValueError: for an invalid value, or for a hyperparameter that ``kernel`` does not have, unless its value is
            the default of ``KervConv``.
        TypeError: for an unknown name or a value of the wrong type.

    Example:
        >>> checked_hyperparameters(find_kernel('gaussian'), 4, {})
        {'gamma': 0.25}
    """
    known = (*DEFAULTS, *(name for name in kernel.hyperparameters if name not in DEFAULTS))
    arguments.reject_unknown(f'the kernel {kernel.name!r}', [name for name in values if name not in known], known)
    result = {}
    for name in known:
        default = kernel.hyperparameters.get(name, DEFAULTS.get(name))
        value = values.get(name, default)
        unchecked = tensors and isinstance(value, Tensor) and not isinstance(default, int)
        checked = value if unchecked else _checked(name, value, default, fan_in)
        if name in kernel.hyperparameters:
            result[name] = checked
        elif unchecked or value != default:
            names = ', '.join(kernel.hyperparameters) or 'none'
            raise ArgumentError(
                f'the kernel {kernel.name!r} has no {name}, got {name}={value!r}; leave it out. It has: {names}'
            )
    return result


def _checked(name: str, value: Any, default: Any, fan_in: int) -> Any:
    if name == 'gamma' and value == 'auto':
        return 1 / max(fan_in, 1)
    if name == 'gamma' and isinstance(value, str):
        raise ArgumentError(f"gamma must be a number > 0, or 'auto' (1/fan_in), got {value!r}")
    if isinstance(default, int):
        try:
            return arguments.integer(value, name, 1 if name == 'degree' else 0)
        except ArgumentTypeError as error:
            # For degree=2.5 the type, a number, is fine; it is the value that the kernel cannot use.
            raise ArgumentError(str(error)) from None
    minimum = MINIMUM.get(name)
    return arguments.real(value, name, minimum or 0, above=minimum is None)
