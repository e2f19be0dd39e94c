"""Small helpers for every part of the package: logging, printable names, unwrapping a model."""

import logging
from typing import TYPE_CHECKING, Any

from mmkerv.distributions import importable

if TYPE_CHECKING:
    from torch import nn


def log(message: str, level: int = logging.INFO) -> None:
    """Log through mmengine's current logger where mmengine is installed, else through the logger ``mmkerv``.

    Example:
        >>> log('mmkerv: 17 of 53 convolutions -> CoCConv', logging.DEBUG)
    """
    if not importable('mmengine'):
        logging.getLogger('mmkerv').log(level, message)
        return
    from mmengine.logging import print_log

    print_log(message, logger='current', level=level)


def printable(name: str, longest: int = 200) -> str:
    r"""Return a name from a file in a form fit for a message: without control characters, and shortened if long.

    Example:
        >>> printable('fc.weight'), printable('a\nb')
        ('fc.weight', "'a\\nb'")
    """
    shown = name if name.isprintable() else repr(name)
    return shown if len(shown) <= longest else f'{shown[:longest]}...'


def duration(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> duration(0.4), duration(42), duration(462), duration(7500), duration(200_000)
        ('0.4 s', '42 s', '7 min 42 s', '2 h 5 min', '2 days 7 h')
    """
    if seconds < 10:
        return f'{seconds:.2g} s'
    whole = round(seconds)
    for size, unit, small, part in ((86400, 'days', 3600, 'h'), (3600, 'h', 60, 'min'), (60, 'min', 1, 's')):
        if whole >= size * (2 if unit == 'days' else 1):
            return f'{whole // size} {unit} {whole % size // small} {part}'
    return f'{whole} s'


def layer_input(args: tuple, kwargs: dict[str, Any]) -> Any:
    """Return the input of a call of a layer, given by position or by the name that torch's layers have for it.

    Example:
        >>> layer_input((1,), {}), layer_input((), {'input': 2})
        (1, 2)
    """
    return args[0] if args else kwargs.get('input')


def unwrapped(model: 'nn.Module') -> 'nn.Module':
    """Return the model inside mmengine's wrapper for distributed training, or the model itself.

    Example:
        >>> from torch import nn
        >>> unwrapped(nn.Linear(2, 3))
        Linear(in_features=2, out_features=3, bias=True)
    """
    from mmengine.model import is_model_wrapper

    return model.module if is_model_wrapper(model) else model


def bare_network(model: 'nn.Module') -> 'nn.Module':
    """Return the network inside wrappers for distributed training and test-time augmentation.

    Example:
        >>> from torch import nn
        >>> bare_network(nn.Linear(2, 3))
        Linear(in_features=2, out_features=3, bias=True)
    """
    from mmengine.model import BaseTTAModel, is_model_wrapper

    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
