"""What may leave the machine: configs and records without paths, user or host names."""

import contextlib
import copy
import functools
import getpass
import platform
import re
from collections.abc import Iterator
from pathlib import PureWindowsPath
from typing import Any

from mmengine.config import Config

from mmkerv.deploy.config import deploy_config, mentions_mmkerv
from mmkerv.engine.config.prepare import HOOKS, TRAINING_HOOKS
from mmkerv.engine.config.write import by_name
from mmkerv.errors import ConfigError
from mmkerv.registry import local_name
from mmkerv.utils import printable

# Settings of one run on one machine.
OF_A_RUN = ('work_dir', 'load_from', 'resume', 'resume_from', 'launcher', 'experiment_name', 'gpu_ids', 'device')
# An absolute path, one in a home folder, of Windows or of a share, or the address of a file.
PATH = re.compile(r"""(^|[\s'"=(:,])(/[\w.~-]|~[\w/]|[A-Za-z]:[\\/]|\\\\\w|file:)""")
# Names that tell nothing of a person or a machine.
COMMON_NAMES = ('root', 'user', 'users', 'ubuntu', 'admin', 'localhost', 'data', 'train', 'test', 'val', 'images')


def public_config(cfg: Config) -> Config:
    """Return a config as it may be published: what belongs to the run or the machine is left out.

    Absolute folders of data become ``data/NAME``, the visualizer writes files alone. Left out are hooks that the tools
    add themselves, weights that the training started from, which the network is not built from again, and of a plain
    network all that needs mmkerv.

    Args:
        cfg: config; it stays as it is.

    Raises:
        ConfigError: naming the key of anything that is still private.

    Example:
        >>> cfg = Config(dict(work_dir='/home/me/a', data_root='/mnt/shapes/', model=dict(type='ResNet')))
        >>> public_config(cfg)._cfg_dict
        {'data_root': 'data/shapes/', 'model': {'type': 'ResNet'}}
    """
    found = by_name(copy.deepcopy(cfg)) if mentions_mmkerv(cfg.get('model')) else deploy_config(cfg)
    for key in OF_A_RUN:
        found.pop(key, None)
    if found.get('custom_hooks'):
        found.custom_hooks = [hook for hook in found.custom_hooks if not _is_added(hook)]
    for place in (found, found.get('visualizer') or {}):
        if place.get('vis_backends'):
            place['vis_backends'] = [{'type': 'LocalVisBackend'}]
    roots = dict.fromkeys(root for root in _roots(found._cfg_dict) if PATH.search(root))
    moved = {root.rstrip('/\\'): f'data/{PureWindowsPath(root).name or "set"}' for root in roots}
    for key in list(found):
        found[key] = _moved(found[key], moved)
    if found.get('model'):
        found.model = _without_start(found.model)
    refuse_private(found._cfg_dict.to_dict(), 'the config')
    return found


def _is_added(hook: Any) -> bool:
    """Return whether the tools add a hook to every run, with these settings."""
    own = local_name(hook.get('type'), ('mmkerv',))
    names = {local_name(name, ('mmkerv',)) for name in (*HOOKS, *TRAINING_HOOKS)}
    return own in names and set(hook) <= {'type', 'strict'}


def _roots(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'data_root' and isinstance(value, str):
                yield value
            yield from _roots(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _roots(value)


def _moved(node: Any, moved: dict[str, str]) -> Any:
    if isinstance(node, str):
        for old, new in moved.items():
            if node == old or node.startswith((f'{old}/', f'{old}\\')):
                return new + node[len(old) :]
        return node
    if isinstance(node, dict):
        for key, value in list(dict.items(node)):
            dict.__setitem__(node, key, _moved(value, moved))
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(_moved(item, moved) for item in node)
    return node


def _without_start(node: Any) -> Any:
    """Return a part of the model without the files that its training started from."""
    if isinstance(node, dict):
        for key, value in list(dict.items(node)):
            if key == 'pretrained' and value:
                dict.__setitem__(node, key, False if value is True else None)
            elif key == 'init_cfg' and isinstance(value, dict) and PATH.search(str(value.get('checkpoint', ''))):
                dict.__setitem__(node, key, None)
            else:
                dict.__setitem__(node, key, _without_start(value))
    elif isinstance(node, (list, tuple)):
        return type(node)(map(_without_start, node))
    return node


def refuse_private(content: Any, what: str) -> None:
    """Refuse paths of this machine, and paths or addresses with the name of its user or its own.

    Args:
        content: strings, numbers and containers.
        what: what they are part of, for the message.

    Raises:
        ConfigError: naming the key and the value.

    Example:
        >>> refuse_private({'ann_file': '/home/me/a.json'}, 'the config')
        Traceback (most recent call last):
        ...
        mmkerv.errors.ConfigError: the config cannot be published: ann_file is '/home/me/a.json', a path of this \
machine. Make it relative to data_root, or replace it by --cfg-options ann_file=VALUE
    """
    for place, text in _strings(content, ''):
        if not _is_private(text):
            continue
        raise ConfigError(
            f'{what} cannot be published: {place} is {printable(text)!r}, a path of this machine. Make it relative to '
            f'data_root, or replace it by --cfg-options {place}=VALUE'
        )


def _is_private(text: str) -> bool:
    if PATH.search(text):
        return True
    words = [re.split(r'[/\\@:]+', word) for word in text.lower().split()]
    return any(len(parts) > 1 and not _own_names().isdisjoint(parts) for parts in words)


@functools.cache
def _own_names() -> frozenset[str]:
    names = {platform.node(), platform.node().partition('.')[0]}
    # A process without a user's name has none to hide.
    with contextlib.suppress(KeyError, OSError, ImportError):
        names.add(getpass.getuser())
    return frozenset({name.lower() for name in names if name}.difference(COMMON_NAMES))


def _strings(node: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _strings(value, f'{place}.{key}' if place else str(key))
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _strings(value, f'{place}.{number}')
