"""Checks of constructor arguments, whose messages name the argument, its value, the rule and what to do."""

import difflib
import math
import operator
from collections.abc import Collection, Iterable
from numbers import Real
from typing import Any

from mmkerv.errors import ArgumentError, ArgumentTypeError

PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')
# What a network passes to each of its convolutions, beside the options in conv_cfg.
FROM_THE_NETWORK = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation')


def integer(value: Any, name: str, minimum: int) -> int:
    """Return ``value`` as an ``int`` of at least ``minimum``.

    Raises:
        TypeError: if it is not an integer (a boolean does not count as one).
        ValueError: if it is smaller than ``minimum``.

    Example:
        >>> integer(3, 'groups', 1)
        3
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ArgumentTypeError(f'{name} must be an integer >= {minimum}, got {value!r} ({type(value).__name__})')
    if number < minimum:
        raise ArgumentError(f'{name} must be >= {minimum}, got {number}')
    return number


def real(value: Any, name: str, minimum: float, *, above: bool = False) -> float:
    """Return ``value`` as a finite ``float`` >= ``minimum``, or > ``minimum`` if ``above``.

    Raises:
        TypeError: if it is not a real number (a boolean does not count as one).
        ValueError: if it is too small, infinite or NaN.

    Example:
        >>> real(2, 'balance', 0)
        2.0
    """
    rule = f'{">" if above else ">="} {minimum:g}'
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(f'{name} must be a number {rule}, got {value!r} ({type(value).__name__})')
    number = float(value)
    if not math.isfinite(number) or number < minimum or (above and number == minimum):
        raise ArgumentError(f'{name} must be {rule}, got {value!r}')
    return number


def integers(value: Any, dims: int, name: str, minimum: int) -> tuple[int, ...]:
    """Return ``value``, one integer or one per spatial axis, as a tuple of ``dims`` integers.

    Raises:
        TypeError: if an element is not an integer.
        ValueError: if an element is smaller than ``minimum``, or there are not ``dims`` of them.

    Example:
        >>> integers(3, 2, 'kernel_size', 1), integers((1, 2), 2, 'stride', 1)
        ((3, 3), (1, 2))
    """
    # The elements of bytes are integers.
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        return (integer(value, name, minimum),) * dims
    values = tuple(integer(v, name, minimum) for v in value)
    if len(values) != dims:
        raise ArgumentError(
            f'{name} must be one integer or {dims} of them, got {value!r}; use {name}={values[:1] * dims}'
        )
    return values


def padding_argument(value: Any, dims: int, stride: tuple[int, ...]) -> str | tuple[int, ...]:
    """Check ``padding`` by the rules of ``nn.Conv2d``: ``'same'``, ``'valid'`` or integers >= 0.

    Raises:
        ValueError: for any other string, a negative integer, or ``'same'`` with a stride other than 1.

    Example:
        >>> padding_argument(1, 2, (1, 1)), padding_argument('same', 2, (1, 1))
        ((1, 1), 'same')
    """
    if not isinstance(value, str):
        return integers(value, dims, 'padding', 0)
    if value not in ('same', 'valid'):
        raise ArgumentError(f"padding must be 'same', 'valid', one integer or {dims} integers, got {value!r}")
    if value == 'same' and any(s != 1 for s in stride):
        raise ArgumentError(f"padding='same' needs stride 1, got stride={stride}; give the padding as integers")
    return value


def fft_stride(method: str, stride: tuple[int, ...]) -> None:
    """Reject Fourier transforms for a strided convolution, where they would also compute the skipped outputs.

    Raises:
        ValueError: if ``method`` is ``'fft'`` and a stride is not 1.

    Example:
        >>> fft_stride('auto', (2, 2))
    """
    if method == 'fft' and any(s != 1 for s in stride):
        raise ArgumentError(f"method='fft' needs stride 1, got stride={stride}; use method='auto' or 'direct'")


def one_of(value: Any, name: str, choices: Collection) -> Any:
    """Return ``value`` if it is one of ``choices`` of the same type; otherwise raise and suggest the closest.

    Raises:
        ValueError: if it is not one of ``choices``.

    Example:
        >>> one_of('zeros', 'padding_mode', PADDING_MODES)
        'zeros'
    """
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    hint = did_you_mean(value, choices)
    raise ArgumentError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}{hint}')


def boolean(value: Any, name: str) -> bool:
    """Return ``value`` if it is ``True`` or ``False``.

    Raises:
        TypeError: otherwise.

    Example:
        >>> boolean(True, 'skip')
        True
    """
    if not isinstance(value, bool):
        raise ArgumentTypeError(f'{name} must be True or False, got {value!r} ({type(value).__name__})')
    return value


def reject_unknown(owner: str, unknown: Iterable[str], known: Collection[str]) -> None:
    """Raise for the first argument name that ``owner`` does not have, and suggest its closest argument.

    Raises:
        TypeError: if ``unknown`` is not empty.

    Example:
        >>> reject_unknown('CoCConv', [], ['association'])
    """
    for name in unknown:
        raise ArgumentTypeError(
            f'{owner} has no argument {name!r}{did_you_mean(name, known)} Its arguments are: {", ".join(known)}'
        )


def reject_from_network(owner: str, options: dict[str, Any], known: Collection[str] = ()) -> None:
    """Raise for an option of a ``conv_cfg`` that the network passes to each of its convolutions by itself.

    Args:
        owner: name of the operator.
        options: the ``conv_cfg`` without its type.
        known: arguments of the operator.

    Raises:
        TypeError: if there is one.

    Example:
        >>> reject_from_network('CKConv', {'kernel_size': 7}, ['kernel_extent'])
        Traceback (most recent call last):
        ...
        mmkerv.errors.ArgumentTypeError: CKConv gets kernel_size from the network, so conv_cfg cannot have \
kernel_size=7; write kernel_extent=7, which adapts the padding too
    """
    for name in FROM_THE_NETWORK:
        if name in options:
            value = options[name]
            if name == 'kernel_size' and 'kernel_extent' in known:
                advice = f'write kernel_extent={value!r}, which adapts the padding too'
            else:
                advice = 'leave it out'
            raise ArgumentTypeError(
                f'{owner} gets {name} from the network, so conv_cfg cannot have {name}={value!r}; {advice}'
            )


def nearest(value: Any, choices: Collection) -> str | None:
    """Return the choice whose spelling is closest to ``value``, whatever the case of its letters, if one is close.

    Example:
        >>> nearest('cocConv ', ['CKConv', 'CoCConv']), nearest('ResNet', ['CoCConv'])
        ('CoCConv', None)
    """
    if not isinstance(value, str):
        return None
    spelt = {choice.lower(): choice for choice in choices if isinstance(choice, str)}
    found = difflib.get_close_matches(value.strip().lower(), spelt, n=1)
    return spelt[found[0]] if found else None


def did_you_mean(value: Any, choices: Collection) -> str:
    """Return the end of a sentence on a misspelt name, with the choice that is closest to it if one is close.

    Example:
        >>> did_you_mean('CocConv', ['CKConv', 'CoCConv']), did_you_mean('ResNet', ['CoCConv'])
        ("; did you mean 'CoCConv'?", '.')
    """
    meant = nearest(value, choices)
    return '.' if meant is None else f'; did you mean {meant!r}?'


def ceil_div(number: int, divisor: int) -> int:
    """Return ``number / divisor``, rounded up, for ``number`` >= 0 and ``divisor`` >= 1.

    Example:
        >>> ceil_div(9, 4), ceil_div(8, 4)
        (3, 2)
    """
    # Not -(-number // divisor): torch.onnx's legacy exporter turns // of traced sizes into a division that truncates.
    return (number + divisor - 1) // divisor
