"""The kernels of kervolution by name, and the decorator that adds one.

y_i = f(s) or f(d2), with s = <x_i, w> and d2 = |x_i - w|^2 of the patch x_i and the filter w.
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
# Arguments of KervConv and their default; any other hyperparameter has the default its kernel gives it.
DEFAULTS = {'degree': 3, 'balance': 1.0, 'gamma': 'auto'}
NORMS = ('x2', 'w2')
# What KervConv already means by a name.
_RESERVED = {
    *('weight', 'bias', 'kernel', 'kernel_size', 'stride', 'padding', 'dilation', 'groups', 'padding_mode'),
    *('in_channels', 'out_channels', 'device', 'dtype', 'learnable', 'per_channel', 'chunk_mib', 'input', 'training'),
    *('watched', 'largest_product', 'options'),
}


class PatchKernel(NamedTuple):
    """A kernel: y = function(s), function(d2) or function(d1), after its family, with hyperparameters by name.

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
        return tuple(k for k, default in self.hyperparameters.items() if not isinstance(default, int))

    def probe(self, values: dict[str, Any]) -> None:
        """Call the function once on a single element, so that what it refuses is refused when a layer is built.

        Args:
            values: the hyperparameters.

        Raises:
            ValueError: if the response has another shape, or by the function itself.

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

    def needs(self, name: str) -> bool:
        """Whether the function has the hyperparameter ``name``.

        Example:
            >>> KERNELS['polynomial'].needs('gamma')
            False
        """
        return name in self.hyperparameters


KERNELS: dict[str, PatchKernel] = {}


def register_kernel(name: str, family: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    r"""Return a decorator that adds a kernel to those that ``KervConv(kernel=name)`` knows.

    :math:`y_i = f(s)` with :math:`s = \langle x_i, w \rangle` for family ``'dot'``, :math:`y_i = f(d^2)` with
    :math:`d^2 = |x_i - w|^2` for ``'radial'``, :math:`y_i = f(d_1)` with :math:`d_1 = \sum |x_i - w|` for
    ``'manhattan'``.

    The function works element by element on a tensor (N, O, *spatial) in float32 or float64, by differentiable
    operations of torch, and returns one of the same shape. Its further arguments are the kernel's hyperparameters:
    ``degree`` (an integer >= 1), ``balance`` (>= 0) and ``gamma`` (> 0) have the defaults of ``KervConv``; any other
    has the default it is given: a float, then it is > 0 and can be learned, or an integer >= 0. A function of s that
    has the arguments ``x2`` and ``w2`` is also given :math:`|x_i|^2` and :math:`|w|^2`, which broadcast with s.

    Args:
        name: what ``kernel=`` will be.
        family: ``'dot'``, ``'radial'`` or ``'manhattan'``.

    Raises:
        ValueError: for another family, a name that is taken, or a function with unusable arguments.
        TypeError: if ``name`` is not a string or the function cannot be called.

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
        # The same function again is its module imported anew.
        if taken is not None and _place(taken.function) != _place(function):
            raise ArgumentError(
                f'name of a kernel must be new, got {name!r}, which is {".".join(_place(taken.function))}'
            )
        parameters = list(inspect.signature(function).parameters.values())[1:]
        norms = [p.name for p in parameters if p.name in NORMS]
        if norms and (family != 'dot' or len(norms) != len(NORMS)):
            raise ArgumentError(f"kernel {name!r} takes {norms}: x2 and w2 go together, in a kernel of family 'dot'")
        hyperparameters = {p.name: _default(name, p) for p in parameters if p.name not in NORMS}
        KERNELS[name] = PatchKernel(name, family, function, hyperparameters, bool(norms))
        return function

    return add


def _place(function: Callable) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _default(name: str, parameter: inspect.Parameter) -> Any:
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
        ValueError: if there is none; the message lists the known ones and the nearest.

    Example:
        >>> find_kernel('l2').family
        'radial'
    """
    return KERNELS[arguments.one_of(name, 'kernel', tuple(KERNELS))]
