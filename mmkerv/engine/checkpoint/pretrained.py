"""Check of what ``init_cfg=dict(type='Pretrained', ...)`` loads; mmengine loads what fits and only logs the rest."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader
from torch import nn

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.engine.checkpoint.layouts import surplus_prefix, weights_of
from mmkerv.engine.checkpoint.load_observer import observe_loading
from mmkerv.engine.checkpoint.match import (
    CheckpointMatch,
    decomposed_shapes,
    differ_in_length,
    match_checkpoint,
    missing_adapters,
    missing_options,
    operators_changing_kernels,
    warn_of_changed_kernels,
)
from mmkerv.errors import CheckpointMismatchError, UnsafeCheckpointError
from mmkerv.ops.core.adapter import lacks_adapter, weight_key
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.initialisation import own_classes
from mmkerv.registry import local_name
from mmkerv.utils import log

# Names of mmengine's initialiser that loads a checkpoint: registered, and of its class.
PRETRAINED = ('Pretrained', 'PretrainedInit')
# Share of keys, of kinds that checkpoint and network both have, that only one of them may have. SSD adds 13 % to the
# VGG it starts from, and 33 % of ResNet-152 are not in ResNet-101.
DEPTH_TOLERANCE = 0.2
# Raised by mmengine's loader for a checkpoint without weights by name, or without a key of the prefix.
LOADER_ERRORS = (AssertionError, AttributeError, RuntimeError, TypeError)


def reported_load(upstream: Callable[..., None]) -> Callable[..., None]:
    """Return ``PretrainedInit.__call__`` extended: it logs in one line what it loaded, or raises.

    It covers all that mmengine's ``PretrainedInit`` loads: ``init_cfg`` of any module, and the ``pretrained`` argument
    of mmdetection's, mmsegmentation's and mmpretrain's networks. Transformers that read their checkpoint in an
    ``init_weights`` of their own are not covered.

    Args:
        upstream: mmengine's method.

    Raises:
        CheckpointMismatchError: when a network is initialised, as :func:`require_pretrained`.

    Example:
        >>> reported_load(PretrainedInit.__call__).__name__
        '__call__'
    """

    @functools.wraps(upstream)
    def load(self: PretrainedInit, module: nn.Module) -> None:
        source = str(self.checkpoint)
        given: dict[str, Any] = {}
        with ExitStack() as stack:
            # While a network is initialised, its operators count as plain convolutions without super layers.
            with own_classes(module):
                observation = observe_loading(module, lambda key, own, value: given.update({key: value}))
                unexpected = stack.enter_context(observation)
            try:
                upstream(self, module)
            except CheckpointMismatchError as error:
                raise CheckpointMismatchError(f'checkpoint {source!r} has weights that do not fit: {error}') from error
            except LOADER_ERRORS as error:
                if not isinstance(error, UnsafeCheckpointError):
                    _require_weights(self, error)
                raise
        given.update(unexpected)
        target = type(module).__name__ + (f' (prefix {self.prefix})' if self.prefix else '')
        with own_classes(module):
            match = require_pretrained(module, given, source, target)
            changing = operators_changing_kernels(module, given, after_hooks=True)
        log(f'mmkerv: {source} -> {target}: {match}')
        if changing:
            warn_of_changed_kernels(changing, source, target)

    return load


def require_pretrained(
    module: nn.Module, state_dict: Mapping[str, Any], source: str, target: str = 'the network'
) -> CheckpointMatch:
    """Refuse a checkpoint that a network cannot sensibly start from; report what fits of any other.

    It is refused if one of these holds:

    1. A tensor has another shape than the network's. In a head it may have another length: its layers for classes are
       then left at their initial values, and named in the report.
    2. No key fits.
    3. It has parameters below a convolution where the network has none: it was trained with operators and the network
       is plain, or has other operators.
    4. The network has another depth: more than a fifth of its keys are missing, or of the checkpoint's unexpected.
       Only keys of a kind that both have count: the same top-level part and, numbers aside, the same name.

    What only one of the two has (a classifier's head, an attention block, the offsets of a deformable convolution) is
    otherwise accepted and named in the report.

    Args:
        module: network.
        state_dict: the checkpoint's values by the network's keys.
        source: name of the checkpoint, for messages.
        target: name of the network, for messages.

    Raises:
        CheckpointMismatchError: naming counts, keys with both shapes, and what to do.
        NonFiniteWeightsError: if what fits holds NaN or anything but plain numbers.

    Example:
        >>> print(require_pretrained(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), 'a.pth'))
        2 parameters loaded, 0 missing, 0 unexpected
    """
    match, own = _match(module, state_dict), module.state_dict()
    advice = (
        'Give a checkpoint of this network (depth, width, operators) as init_cfg.checkpoint, or change the network; '
        'init_cfg=None starts without one'
    )
    decomposed = decomposed_shapes(module)
    other_shapes = [key for key in match.shapes if not _is_for_other_classes(key, own.get(key), state_dict.get(key))]
    reasons = [
        f'{key} is {_shape(state_dict[key])} in the checkpoint and '
        + (f'{_shape(own[key])} in the network' if key in own else f'the network decomposes {decomposed[key]}')
        for key in other_shapes[:3]
    ]
    if not match.loaded and not other_shapes:
        reasons.append('nothing of it fits')
        if prefix := surplus_prefix(match.unexpected, own):
            advice = f'Its keys begin with {prefix!r}: add prefix={prefix!r} to init_cfg'
    if foreign := _below_convolutions(module, match.unexpected):
        reasons.append(f'the convolutions of the network have no {", ".join(foreign[:3])}')
        advice = (
            'It was trained with operators: give the network the conv_cfg (and where) it was trained with, or fold the '
            'checkpoint with tools/model_converters/reparameterize_model.py first'
        )
        if options := missing_options(module, foreign):
            advice = f'It was trained with {options}: add that to conv_cfg'
        elif adapters := missing_adapters(foreign, state_dict):
            advice = adapters
    expected = len(own) - len(match.operator_only) - len(match.weightless)
    for keys, others, total, label in (
        (match.missing, state_dict, expected, "network's keys missing"),
        (match.unexpected, own, len(state_dict), "checkpoint's keys unexpected"),
    ):
        count = len(_of_common_kinds(keys, others))
        if count > DEPTH_TOLERANCE * total:
            reasons.append(f'{count} of {total} of the {label}: it has another number of layers')
    if reasons:
        raise CheckpointMismatchError(
            f'checkpoint {source!r} is not of {target}: {match}: {"; ".join(reasons)}. {advice}'
        )
    # Of weights that are decomposed the operator checks it.
    require_finite({key: state_dict[key] for key in match.loaded if key in state_dict}, source, own)
    return match


def pretrained_sources(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the checkpoints that parts of a config start from, each after its dotted key.

    Args:
        node: part of a config.
        path: its dotted key.

    Example:
        >>> list(pretrained_sources(dict(backbone=dict(pretrained='torchvision://resnet18')), 'model'))
        [('model.backbone.pretrained', 'torchvision://resnet18')]
    """
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    is_init_cfg = local_name(node.get('type'), ('', 'mmengine')) in PRETRAINED
    key = 'checkpoint' if is_init_cfg else 'pretrained'
    if isinstance(node.get(key), str):
        yield f'{path}.{key}', node[key]
    for name, child in node.items():
        yield from pretrained_sources(child, f'{path}.{name}')


def missing_files(node: Any, path: str) -> list[str]:
    """Return a sentence for each local checkpoint that a part of a config starts from and that does not exist.

    Args:
        node: part of a config.
        path: its dotted key.

    Example:
        >>> missing_files({'init_cfg': dict(type='Pretrained', checkpoint='torchvision://resnet18')}, 'model')
        []
    """
    return [text for key, file in pretrained_sources(node, path) if (text := missing_file(key, file))]


def missing_file(key: str, file: str) -> str:
    """Return a sentence on a checkpoint that is a local file and does not exist; empty for any other.

    Args:
        key: dotted key of the config that names it.
        file: path, or address.

    Example:
        >>> missing_file('load_from', 'absent.pth').partition(';')[0]
        "checkpoint 'absent.pth' does not exist"
    """
    if '://' in file or Path(file).expanduser().is_file():
        return ''
    none = key.rpartition('.')[0] if key.endswith('.checkpoint') else key
    return (
        f'checkpoint {file!r} does not exist; give the path of a .pth file with --cfg-options {key}=FILE, or None for '
        f'{none} to start without one'
    )


def _match(module: nn.Module, state_dict: Mapping[str, Any]) -> CheckpointMatch:
    """Compare keys; what operators cannot have from a plain checkpoint is neither missing nor unexpected."""
    operator_only, weightless, unused = [], [], []
    for name, operator in module.named_modules():
        if not isinstance(operator, ConvNd) or f'{name}.{weight_key(operator)}' not in state_dict:
            continue
        own = [f'{name}.{parameter}' for parameter in operator.own_parameters()]
        if any(key in state_dict for key in own):
            continue
        if operator.decomposes_weight:
            continue
        if operator.weight is None:
            weightless += own
            unused.append(f'{name}.weight')
        else:
            operator_only += own
    for name, layer in module.named_modules(remove_duplicate=False):
        operator_only += lacks_adapter(state_dict, f'{name}.' if name else '', layer)
    match = match_checkpoint(module, state_dict, after_hooks=True)
    accounted_for = {*operator_only, *weightless, *unused}
    return match._replace(
        missing=[key for key in match.missing if key not in accounted_for],
        unexpected=[key for key in match.unexpected if key not in accounted_for],
        operator_only=operator_only,
        weightless=weightless,
        unused=unused,
    )


def _below_convolutions(module: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Return the unexpected keys below a convolution or an operator: parameters of an operator that is not there."""
    convolutions = {name for name, m in module.named_modules() if isinstance(m, (nn.modules.conv._ConvNd, ConvNd))}
    return [key for key in unexpected if any(key[: dot.start()] in convolutions for dot in re.finditer(r'\.', key))]


def _is_for_other_classes(key: str, own: Any, given: Any) -> bool:
    """Return whether a tensor of another shape is of a layer in a head, for another number of classes."""
    return any(part.endswith('head') for part in key.split('.')[:-1]) and differ_in_length(own, given)


def _of_common_kinds(keys: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the keys of a kind that ``others`` has too; such keys belong to further layers of the same sort."""
    kinds = {_kind(key) for key in others}
    return [key for key in keys if _kind(key) in kinds]


def _kind(key: str) -> tuple[str, str]:
    """Return the top-level part of a key, and the key without its numbers."""
    return key.partition('.')[0], re.sub(r'\d+', '', key)


def _require_weights(init: PretrainedInit, error: Exception) -> None:
    """Raise a readable error if the checkpoint holds no weights by name, or none of the prefix."""
    weights = weights_of(CheckpointLoader.load_checkpoint(init.checkpoint, 'cpu', logger='silent'), init.checkpoint)
    prefix = f'{(init.prefix or "").rstrip(".")}.'
    if init.prefix is None or any(key.startswith(prefix) for key in weights):
        return
    parts = ', '.join(dict.fromkeys(key.partition('.')[0] for key in weights))
    raise CheckpointMismatchError(
        f'checkpoint {init.checkpoint!r} has no key that begins with {prefix!r}: its parts are {parts[:200]}. Change '
        'init_cfg.prefix, or leave it out if the checkpoint is of this part of the network alone'
    ) from error


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if hasattr(value, 'shape') else type(value).__name__
