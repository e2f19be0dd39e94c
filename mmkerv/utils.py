"""Helpers that stand outside any one idea of the package."""

import logging
from importlib.util import find_spec


def log(message: str, level: int = logging.INFO) -> None:
    """Log through mmengine's current logger where mmengine is installed, else through the logger ``mmkerv``.

    Example:
        >>> log('mmkerv: 17 of 53 convolutions -> CoCConv', logging.DEBUG)
    """
    if find_spec('mmengine') is None:
        logging.getLogger('mmkerv').log(level, message)
        return
    from mmengine.logging import print_log

    print_log(message, logger='current', level=level)


def printable(name: str, longest: int = 200) -> str:
    r"""Return a name from a file as it may be shown: without control characters, and not endless.

    Example:
        >>> printable('fc.weight'), printable('a\nb')
        ('fc.weight', "'a\\nb'")
    """
    shown = name if name.isprintable() else repr(name)
    return shown if len(shown) <= longest else f'{shown[:longest]}...'
