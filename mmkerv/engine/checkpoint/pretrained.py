"""What ``init_cfg=dict(type='Pretrained', ...)`` loads: mmengine takes what fits, and leaves the rest to a log line."""

import functools
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader
from torch import nn

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.engine.checkpoint.load_observer import watched_loading
from mmkerv.engine.checkpoint.match import CheckpointMatch, changed_kernels, match_checkpoint, named, weights_of
from mmkerv.errors import CheckpointMismatchError, UnsafeCheckpointError
from mmkerv.ops.core.base import ConvNd
from mmkerv.utils import log

# The part of a network, or of a checkpoint, that the other may lack: SSD adds 13 % to the VGG it starts from, and 33 %
# of ResNet-152 are not in ResNet-101.
TOLERATED = 0.2
# What mmengine's reading ends in where a checkpoint holds no weights by name, or none of the prefix.
MISREAD = (AssertionError, AttributeError, RuntimeError, TypeError)


class PretrainedMatch(NamedTuple):
    """How a checkpoint and the network that starts from it compare, by the keys of the network.

    Args:
        keys: the comparison; what is in ``own_start`` or ``unplaced`` is neither missing nor unexpected.
        own_start: parameters of operators without a basic kernel (CKConv), which a plain checkpoint cannot have.
        unplaced: the plain weights in their place.

    Example:
        >>> print(PretrainedMatch(CheckpointMatch(['a'], [], ['fc.bias'], [], []), [], []))
        1 parameters loaded, 0 missing, 1 unexpected (fc.bias)
    """

    keys: CheckpointMatch
    own_start: list[str]
    unplaced: list[str]

    def __str__(self) -> str:
        keys = self.keys
        parts = [
            f'{len(keys.loaded)} parameters loaded',
            named(keys.missing, 'missing'),
            named(keys.unexpected, 'unexpected'),
        ]
        for found, label in (
            (keys.shapes, 'of another shape'),
            (keys.operator_only, 'kept by the operators (plain checkpoint)'),
            (self.own_start, 'at the start of operators without a basic kernel'),
            (self.unplaced, 'plain weights without a place there'),
        ):
            if found:
                parts.append(named(found, label))
        return ', '.join(parts)


def install_pretrained_report() -> None:
    """Make every ``Pretrained`` initialisation in this process say in one line what it loaded, or stop.

    It covers whatever goes through mmengine's ``PretrainedInit``: ``init_cfg`` of any module, and the ``pretrained``
    argument of mmdetection's, mmsegmentation's and mmpretrain's networks. Transformers that read their checkpoint in an
    ``init_weights`` of their own are not seen.

    Raises:
        CheckpointMismatchError: when a network is initialised, as :func:`require_pretrained`.

    Example:
        >>> install_pretrained_report()
    """
    upstream = PretrainedInit.__call__
    if getattr(upstream, 'reports', False):
        return

    @functools.wraps(upstream)
    def load(self: PretrainedInit, module: nn.Module) -> None:
        source = str(self.checkpoint)
        given: dict[str, Any] = {}
        with watched_loading(module, lambda key, own, value: given.update({key: value})) as unexpected:
            try:
                upstream(self, module)
            except MISREAD as error:
                if not isinstance(error, UnsafeCheckpointError):
                    _require_weights(self, error)
                raise
        given.update(dict.fromkeys(unexpected))
        place = type(module).__name__ + (f' (prefix {self.prefix})' if self.prefix else '')
        match = require_pretrained(module, given, source, place)
        log(f'mmkerv: {source} -> {place}: {match}')
        if changed := changed_kernels(module, given):
            log(
                f'mmkerv: {source} is of the plain network, and {len(changed)} operators of {place} such as '
                f'{changed[0]} do not start as the identity: they change its kernels, and training goes on from there. '
                "Use super_init='identity' to start from what the checkpoint computes",
                logging.WARNING,
            )

    load.reports = True
    PretrainedInit.__call__ = load


def require_pretrained(
    module: nn.Module, state_dict: dict[str, Any], source: str, place: str = 'the network'
) -> PretrainedMatch:
    """Compare a checkpoint with the network that starts from it; refuse one of another network.

    Refused are: a tensor of another shape; a checkpoint of which nothing fits; parameters for a convolution that has no
    such parameters (those of operators, given to a plain network); more than a fifth of the network's keys missing, or
    of the checkpoint's unexpected, of kinds that both have (another depth). What only one of the two has, such as a
    classifier's head, an attention block or the offsets of a deformable convolution, is no reason to refuse.

    Args:
        module: network.
        state_dict: what it is given, by its own names.
        source: name of the checkpoint, for messages.
        place: name of the network, for messages.

    Raises:
        CheckpointMismatchError: naming counts, keys with both shapes, and the cure.

    Example:
        >>> print(require_pretrained(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), 'a.pth'))
        2 parameters loaded, 0 missing, 0 unexpected
    """
    match = _match(module, state_dict)
    keys, own = match.keys, module.state_dict()
    reasons = []
    if keys.shapes:
        reasons += [
            f'{key} is {_shape(state_dict[key])} in the checkpoint and {_shape(own[key])} in the network'
            for key in keys.shapes[:3]
        ]
    cure = (
        'Give a checkpoint of this network (depth, width, operators) as init_cfg.checkpoint, or change the network; '
        'init_cfg=None starts without one'
    )
    if not keys.loaded and not keys.shapes:
        prefix = next((k.partition('.')[0] for k in keys.unexpected if k.partition('.')[2] in own), None)
        reasons.append('nothing of it fits')
        if prefix:
            cure = f'Its keys begin with {prefix!r}: add prefix={prefix + "."!r} to init_cfg'
    if foreign := _inside_convolutions(module, keys.unexpected):
        reasons.append(f'the convolutions of the network have no {", ".join(foreign[:3])}')
        cure = (
            'It was trained with operators: give the network the conv_cfg (and where) it was trained with, or fold the '
            'checkpoint with tools/model_converters/reparameterize_model.py first'
        )
    for found, of_both, total, label in (
        (keys.missing, state_dict, len(own) - len(keys.operator_only) - len(match.own_start), "network's keys missing"),
        (keys.unexpected, own, len(state_dict), "checkpoint's keys unexpected"),
    ):
        if (count := len(_of_a_kind(found, of_both))) > TOLERATED * total:
            reasons.append(f'{count} of {total} of the {label}: it has another number of layers')
    if reasons:
        raise CheckpointMismatchError(f'checkpoint {source!r} is not of {place}: {match}: {"; ".join(reasons)}. {cure}')
    require_finite({key: state_dict[key] for key in keys.loaded}, source, own)
    return match


def check_pretrained_files(node: Any, place: str) -> None:
    """Check that the local checkpoints which the parts of a config start from exist, before anything is built.

    Args:
        node: part of a config.
        place: its dotted key.

    Raises:
        FileNotFoundError: naming the key that says where the checkpoint is.

    Example:
        >>> check_pretrained_files({'init_cfg': dict(type='Pretrained', checkpoint='torchvision://resnet18')}, 'model')
    """
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    key = 'checkpoint' if node.get('type') in ('Pretrained', PretrainedInit) else 'pretrained'
    file = node.get(key)
    if isinstance(file, str) and '://' not in file and not Path(file).expanduser().is_file():
        raise FileNotFoundError(
            f'checkpoint {file!r} does not exist; give the path of a .pth file with --cfg-options {place}.{key}=FILE, '
            f'or None for {place if key == "checkpoint" else f"{place}.{key}"} to start without one'
        )
    for name, child in node.items():
        check_pretrained_files(child, f'{place}.{name}')


def _match(module: nn.Module, state_dict: dict[str, Any]) -> PretrainedMatch:
    keys = match_checkpoint(module, state_dict)
    kept, own_start, unplaced = [], [], []
    for name, operator in module.named_modules():
        if not isinstance(operator, ConvNd) or f'{name}.weight' not in state_dict:
            continue
        own = [f'{name}.{key}' for key in operator.state_dict() if key not in ('weight', 'bias')]
        if any(key in state_dict for key in own):
            continue
        if operator.weight is None:
            own_start += own
            unplaced.append(f'{name}.weight')
        else:
            kept += own
    apart = {*kept, *own_start, *unplaced}
    rest = keys._replace(
        missing=[key for key in keys.missing if key not in apart],
        unexpected=[key for key in keys.unexpected if key not in apart],
        operator_only=kept,
    )
    return PretrainedMatch(rest, own_start, unplaced)


def _inside_convolutions(module: nn.Module, unexpected: list[str]) -> list[str]:
    """Unexpected keys below a convolution or an operator: what computed the kernels is not there."""
    below = {f'{name}.' for name, m in module.named_modules() if isinstance(m, (nn.modules.conv._ConvNd, ConvNd))}
    return [key for key in unexpected if any(key[: m.end()] in below for m in re.finditer(r'\.', key))]


def _of_a_kind(keys: list[str], others: Iterable[str]) -> list[str]:
    """The keys that would only be a further layer to ``others``: of the same part and, numbers aside, the same name."""
    kinds = {_kind(key) for key in others}
    return [key for key in keys if _kind(key) in kinds]


def _kind(key: str) -> tuple[str, str]:
    return key.partition('.')[0], re.sub(r'\d+', '', key)


def _require_weights(init: PretrainedInit, error: Exception) -> None:
    """Say in words that the checkpoint holds no weights, or none of that prefix, if that is so."""
    weights = weights_of(CheckpointLoader.load_checkpoint(init.checkpoint, 'cpu', logger='silent'), init.checkpoint)
    prefix = f'{(init.prefix or "").rstrip(".")}.'
    if init.prefix is None or any(key.startswith(prefix) for key in weights):
        return
    parts = ', '.join(dict.fromkeys(key.partition('.')[0] for key in weights))
    raise CheckpointMismatchError(
        f'checkpoint {init.checkpoint!r} has no key that begins with {prefix!r}: its parts are {parts[:200]}. Change '
        'init_cfg.prefix, or leave it out if the checkpoint is of this part of the network alone'
    ) from error


def _shape(value: Any) -> tuple | str:
    return tuple(value.shape) if hasattr(value, 'shape') else type(value).__name__
