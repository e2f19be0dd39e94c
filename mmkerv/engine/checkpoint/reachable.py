"""Whether the checkpoints that a training starts from can be had, without downloading them."""

import http.client
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

from mmengine.config import Config

from mmkerv.engine.checkpoint.pretrained import missing_file, pretrained_sources
from mmkerv.engine.checkpoint.safe_load import cached_file, web_address
from mmkerv.errors import ConfigError
from mmkerv.utils import printable

SECONDS = 5.0


class Source(NamedTuple):
    """A checkpoint that a training starts from.

    Args:
        key: dotted key of the config that names it.
        name: file or address, as the config has it.
        is_here: whether it is a file on this machine, a download of before included.
        fault: why it cannot be had, and what to do; empty if it can.

    Example:
        >>> Source('load_from', 'epoch_12.pth', True).fault
        ''
    """

    key: str
    name: str
    is_here: bool
    fault: str = ''


def weight_sources(cfg: Config, seconds: float = SECONDS) -> Iterator[Source]:
    """Yield the checkpoints that a training starts from, with what is wrong; web servers are asked, not read.

    Args:
        cfg: config of the training.
        seconds: longest wait for a server.

    Example:
        >>> list(weight_sources(Config(dict(model=dict(type='RetinaNet')))))
        []
    """
    named = list(pretrained_sources(cfg.get('model'), 'model'))
    if cfg.get('load_from'):
        named.append(('load_from', cfg.load_from))
    for key, name in named:
        try:
            address = web_address(name)
        except ConfigError as error:
            yield Source(key, name, False, f'{key}: {error}')
            continue
        if address is None:
            # A file; what is in another storage, such as s3://, is left to the training.
            missing = missing_file(key, name)
            yield Source(key, name, not missing and '://' not in name, missing)
        elif (file := cached_file(address)).is_file():
            yield Source(key, name, True)
        elif reason := unreachable(address, seconds):
            yield Source(
                key,
                name,
                False,
                f'{key}: checkpoint {name!r} cannot be downloaded ({reason}); put the file at {file}, give the path of '
                f'one with --cfg-options {key}=FILE, or start without weights: --no-pretrained',
            )
        else:
            yield Source(key, name, False)


def unreachable(address: str, seconds: float = SECONDS) -> str:
    """Return why a file cannot be downloaded, empty if a server offers it.

    Args:
        address: of http or https.
        seconds: longest wait.

    Example:
        >>> unreachable('http://localhost:9/a.pth')  # doctest: +ELLIPSIS
        '...'
    """
    try:
        request = urllib.request.Request(address, method='HEAD')
        with urllib.request.urlopen(request, timeout=seconds):
            return ''
    except (OSError, ValueError, http.client.HTTPException) as error:
        return printable(str(getattr(error, 'reason', None) or error) or type(error).__name__)
