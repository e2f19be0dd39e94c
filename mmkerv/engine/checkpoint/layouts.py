"""Layouts in which other programs save weights, and the weights by the names that a network has.

mmengine writes ``{'state_dict': weights, 'meta': ...}``. Other trainers call the container otherwise, or save the
network inside a wrapper, whose name is then part of every key. What a file plainly is gets loaded; the message about
any other names the prefix of its keys.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from mmkerv.errors import CheckpointMismatchError
from mmkerv.utils import log, printable

# Entry with the weights; the first that a checkpoint has. The last ones hold averaged weights alone.
CONTAINERS = ('state_dict', 'model', 'model_state_dict', 'net', 'network', 'module', 'params', 'ema_state_dict')
# Modules that torch puts around others; no network has submodules of these names.
WRAPPERS = re.compile(r'(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
# Prefix of the wrappers for several GPUs and for averaged weights, which mmengine's loaders strip once, and the
# counters of averaged networks beside it: mmengine's, torch's.
PARALLEL, COUNTERS = 'module.', ('steps', 'n_averaged')
# Share of the keys that must fit once a prefix is changed.
ENOUGH = 0.5


def weights_of(checkpoint: Any, source: str) -> dict[str, Any]:
    """Return the weights by name in a checkpoint of any layout, without the names of wrappers.

    Args:
        checkpoint: content of the file.
        source: name of the file, for messages.

    Raises:
        CheckpointMismatchError: if it holds no weights by name.

    Example:
        >>> weights_of({'meta': {}, 'state_dict': {'a': 1}}, 'a.pth'), weights_of({'a': 1}, 'a.pth')
        ({'a': 1}, {'a': 1})
        >>> import torch
        >>> list(weights_of({'epoch': 3, 'model': {'module._orig_mod.a': torch.ones(1)}}, 'a.pth'))
        ['a']
    """
    entry = container(checkpoint)
    weights = checkpoint if entry is None else checkpoint[entry]
    invalid = [key for key in weights if not isinstance(key, str)] if isinstance(weights, Mapping) else [weights]
    if invalid:
        raise CheckpointMismatchError(
            f'checkpoint {source!r} holds a {type(invalid[0]).__name__}, not parameters by name; give one that a '
            'runner saved, or torch.save(model.state_dict(), FILE)'
        )
    if entry is None and weights and not any(isinstance(value, Tensor) for value in weights.values()):
        nested = [key for key, value in weights.items() if _holds_tensors(value)]
        if nested:
            raise CheckpointMismatchError(
                f'checkpoint {source!r} holds no weights under a name that is known ({", ".join(CONTAINERS)}); its '
                f'entries are {", ".join(map(printable, list(weights)[:8]))}. Save the weights by themselves: '
                f"torch.save({{'state_dict': checkpoint[{nested[0]!r}]}}, FILE)"
            )
    return unwrapped_names(weights)


def container(checkpoint: Any) -> str | None:
    """Return the entry of a checkpoint that holds the weights, or ``None`` if they are the checkpoint itself.

    Example:
        >>> import torch
        >>> container({'epoch': 3, 'model': {'a': torch.ones(1)}}), container({'model': torch.ones(1)})
        ('model', None)
    """
    if not isinstance(checkpoint, Mapping):
        return None
    if 'state_dict' in checkpoint:
        return 'state_dict'
    return next((name for name in CONTAINERS if _holds_tensors(checkpoint.get(name))), None)


def unwrapped_names(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights without the names of wrappers: of data parallelism, averaging and torch.compile.

    ``module.`` is removed as often as all keys begin with it; then the counter of an averaged network is removed too.

    Example:
        >>> dict(unwrapped_names({'module.module.a': 1, 'module.steps': 2})), unwrapped_names({'module.a': 1, 'b': 2})
        ({'a': 1}, {'module.a': 1, 'b': 2})
        >>> dict(unwrapped_names({'backbone._orig_mod.a': 1}))
        {'backbone.a': 1}
    """
    kept = {key: WRAPPERS.sub('', key) for key in weights}
    depth = 0
    while (inner := [name for name in kept.values() if name not in COUNTERS]) and all(map(_is_wrapped, inner)):
        kept = {key: name.removeprefix(PARALLEL) for key, name in kept.items() if name not in COUNTERS}
        depth += 1
    if list(kept) == list(weights) == list(kept.values()):
        return weights

    def rename(name: str) -> str:
        name = WRAPPERS.sub('', name)
        for _ in range(depth):
            name = name.removeprefix(PARALLEL)
        return name

    return _renamed({key: weights[key] for key in kept}, weights, rename)


def plain_layout(checkpoint: Any) -> Any:
    """Return a checkpoint as mmengine writes it, ``{'state_dict': weights, ...}``, or bare weights if it is these.

    Names of wrappers are removed from both. What holds no weights by name is returned as it is.

    Example:
        >>> import torch
        >>> list(plain_layout({'epoch': 3, 'model': {'module.a': torch.ones(1)}})['state_dict'])
        ['a']
    """
    entry = container(checkpoint)
    weights = checkpoint if entry is None else checkpoint[entry]
    if not isinstance(weights, Mapping) or not all(isinstance(key, str) for key in weights):
        return checkpoint
    plain = unwrapped_names(weights)
    if entry is None or (plain is weights and entry == 'state_dict'):
        return plain if entry is None else checkpoint
    return {**{key: value for key, value in checkpoint.items() if key != entry}, 'state_dict': plain}


def fitted_names(weights: dict[str, Any], own: Collection[str], source: str) -> dict[str, Any]:
    """Return the weights by the names of a network, where one prefix is all that keeps them from fitting.

    The prefix is either one that all keys of the checkpoint have (``model.`` of a LightningModule), or ``backbone.``,
    which the weights of a bare backbone lack. It is logged.

    Args:
        weights: weights by name.
        own: the network's keys.
        source: name of the checkpoint, for the log.

    Example:
        >>> list(fitted_names({'model.a': 1, 'model.b': 2}, {'a', 'b'}, 'a.ckpt'))
        ['a', 'b']
        >>> list(fitted_names({'a': 1, 'b': 2}, {'backbone.a', 'backbone.b', 'head.a'}, 'a.pth'))
        ['backbone.a', 'backbone.b']
    """
    if not weights or any(key in own for key in weights):
        return weights
    roads: list[tuple[Callable[[str], str], str]] = [
        ('backbone.{}'.format, 'into the backbone, whose weights it holds')
    ]
    prefix = surplus_prefix(weights, own)
    if prefix and all(key.startswith(prefix) for key in weights):
        roads.insert(0, (lambda key: key.removeprefix(prefix), f'without the prefix {prefix!r} of its keys'))
    for rename, what in roads:
        if sum(rename(key) in own for key in weights) > ENOUGH * len(weights):
            log(f'mmkerv: {source} is loaded {what}')
            return _renamed(weights, weights, rename)
    return weights


def surplus_prefix(keys: Iterable[str], own: Collection[str]) -> str | None:
    """Return what stands before the network's name in the first key that ends in one.

    Example:
        >>> surplus_prefix(['loss.w', 'student.net.fc.weight'], {'fc.weight'})
        'student.net.'
    """
    for key in keys:
        for dot in re.finditer(r'\.', key):
            if key[dot.end() :] in own:
                return key[: dot.end()]
    return None


def _holds_tensors(value: Any) -> bool:
    """Return whether a value looks like weights by name: mostly tensors, by strings."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return 2 * sum(isinstance(item, Tensor) for item in value.values()) > len(value)


def _is_wrapped(name: str) -> bool:
    return name.startswith(PARALLEL)


def _renamed(kept: Mapping[str, Any], weights: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Return the weights by new names, and with them the versions of modules, by which torch converts old layouts."""
    renamed = OrderedDict((rename(key), value) for key, value in kept.items())
    metadata = getattr(weights, '_metadata', None)
    if isinstance(metadata, Mapping):
        renamed._metadata = OrderedDict((name and rename(f'{name}.')[:-1], value) for name, value in metadata.items())
    return renamed
