"""Conversion of a plain network's checkpoint into an operator network's."""

import copy
import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmkerv.engine.checkpoint.atomic_write import save_checkpoint
from mmkerv.engine.checkpoint.layouts import weights_of
from mmkerv.engine.checkpoint.match import (
    CheckpointMatch,
    differ_in_length,
    match_checkpoint,
    require_match,
)
from mmkerv.engine.checkpoint.pretrained import PRETRAINED
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.initial_weights import draw_initial_weights
from mmkerv.engine.scope import enter_scope
from mmkerv.errors import CheckpointMismatchError, ConfigError
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.registry import local_name

BACKBONE = 'backbone.'
BATCH_COUNTER = '.num_batches_tracked'
# (whether the blocks are bottlenecks, blocks in each stage) -> depth
RESNETS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
# Families whose layers torchvision and mmpretrain name differently but register in the same order, each with a name
# that only torchvision uses. Equal shapes in one order prove nothing in general: for these families the outputs of both
# networks were compared.
SAME_LAYER_ORDER = {
    'MobileNetV2': f'{BACKBONE}features.1.conv.0.0.weight',
    'MobileNetV3': f'{BACKBONE}features.1.block.0.0.weight',
    'ShuffleNetV2': f'{BACKBONE}stage2.0.branch1.0.weight',
}
DEEP_STEM = re.compile(rf'^((?:{BACKBONE})?stem\.)([012])\.(conv|bn)\.')


def convert_checkpoint(
    src: str | Path, dst: str | Path, cfg: Config | None = None, *, trust: bool = False
) -> CheckpointMatch:
    """Convert a plain network's checkpoint into one of the operator network, which computes the same.

    Names and shapes are compared; what they do not show (strides, dilations, ``style='caffe'``) is taken from the
    config.

    Args:
        src: checkpoint of torchvision or OpenMMLab: bare weights, or what a runner saved.
        dst: file to write; it loads strictly into the operator network.
        cfg: config whose ``model`` is the operator network. By default the ResNet that the names in ``src`` identify,
            as an mmpretrain ``ImageClassifier`` with ``mmkerv.ResNet`` and ``CoCConv``.
        trust: see :func:`mmkerv.engine.safe_load`.

    Returns:
        The report of :func:`convert_plain`.

    Raises:
        CheckpointMismatchError: see :func:`convert_plain`; nothing is written.
        ConfigError: without ``cfg``, if the names are not those of a ResNet.

    Example:
        >>> convert_checkpoint('resnet50.pth', 'resnet50_coc.pth')  # doctest: +SKIP
    """
    weights = {str(name): value for name, value in weights_of(safe_load(src, trust=trust), str(src)).items()}
    network = _build(infer_config(weights, str(src)) if cfg is None else cfg)
    match = convert_plain(network, weights, str(src))
    save_checkpoint({'meta': {}, 'state_dict': network.state_dict()}, dst)
    return match


def convert_plain(network: nn.Module, weights: Mapping[str, Any], source: str) -> CheckpointMatch:
    """Load a plain network's weights into an operator network, so that it computes what the plain one computed.

    The backbone must be loaded completely. A neck or head that the weights lack keeps its initial values, one that the
    network lacks is left out, and so are the tensors of a head for another number of classes.

    Args:
        network: operator network, changed in place; unchanged if an error is raised.
        weights: of the plain network.
        source: name of the checkpoint, for messages.

    Returns:
        ``loaded``, ``missing`` and ``operator_only`` by the network's names, ``unexpected`` by the checkpoint's.

    Raises:
        CheckpointMismatchError: if the weights are of a network of another depth, width or family, or if operators do
            not start as the convolution with the weight they are given.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> plain, network = nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Sequential(CoCConv2d(3, 8, 3))
        >>> convert_plain(network, plain.state_dict(), 'a.pth').operator_only
        ['0.super_layers.0.weight']
    """
    own = network.state_dict()
    our_places, their_places = _canonical_places(network, weights)
    names = {place: name for name, place in our_places.items()}
    given = {names[place]: weights[name] for name, place in their_places.items() if place in names}
    unexpected = [name for name, place in their_places.items() if place not in names]
    _require_convolutions(network, given, source)

    # A neck or head that both have must match completely, as the backbone must.
    shared = {_top_level(place) for place in their_places.values() if place in names} | {_top_level(BACKBONE)}
    match = match_checkpoint(network, given)
    other_classes = [
        name
        for name in match.shapes
        if _top_level(our_places[name]).endswith('head') and differ_in_length(own[name], given[name])
    ]
    mismatch = match._replace(
        missing=[name for name in match.missing if _top_level(our_places[name]) in shared],
        unexpected=[name for name in unexpected if _top_level(their_places[name]) in shared],
        shapes=[name for name in match.shapes if name not in other_classes],
        operator_only=(),
    )
    if mismatch.missing or mismatch.unexpected or mismatch.shapes:
        pairs = [
            f'; {name} is {_shape(given[name])} in the checkpoint and {_shape(own[name])} in the network'
            for name in mismatch.shapes[:3]
        ]
        raise CheckpointMismatchError(
            f'checkpoint {source!r} is of another network than the one it is converted for: {mismatch}'
            f'{"".join(pairs)}. Give, with --config, an operator network of the same family, depth and width'
        )
    unexpected += [name for name, place in their_places.items() if names.get(place) in other_classes]
    given = {name: value for name, value in given.items() if name not in other_classes}
    missing = match_checkpoint(network, given).missing
    # With the network's own values in place of the missing ones, the rest is checked as any checkpoint is.
    complete = {**given, **{name: own[name] for name in missing}}
    operator_only = require_match(network, complete, source).operator_only
    if missing:
        _initialise(network)
        own = network.state_dict()
        complete |= {name: own[name] for name in missing}
    network.load_state_dict(complete)
    return CheckpointMatch(list(given), missing, unexpected, [], operator_only)


def infer_config(weights: Mapping[str, Any], source: str) -> Config:
    """Return the config of the ResNet classifier that the parameters' names identify, with ``CoCConv`` convolutions.

    Args:
        weights: of a ResNet by torchvision's or OpenMMLab's names; the config has no head if they have no ``fc``.
        source: name of the checkpoint, for messages.

    Raises:
        ConfigError: if the names are not those of ResNet-18, 34, 50, 101 or 152.

    Example:
        >>> infer_config({'fc.weight': torch.ones(10, 512)}, 'a.pth')
        Traceback (most recent call last):
        ...
        mmkerv.errors.ConfigError: the network of 'a.pth' cannot be told from its names, ...
    """
    places = canonical_names(weights)
    matches = (re.match(rf'{re.escape(BACKBONE)}layer(\d)\.(\d+)\.', place) for place in places.values())
    blocks = {match.groups() for match in matches if match}
    blocks_per_stage = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(1, 5))
    bottleneck = f'{BACKBONE}layer1.0.conv3.weight' in places.values()
    depth = RESNETS.get((bottleneck, blocks_per_stage))
    if depth is None or f'{BACKBONE}conv1.weight' not in places.values():
        raise ConfigError(
            f'the network of {source!r} cannot be told from its names, such as {", ".join(list(weights)[:3])}'
            ': they are not those of ResNet-18, 34, 50, 101 or 152; give --config CONFIG, whose model is the operator '
            'network'
        )
    fc = next((_shape(weights[name]) for name, place in places.items() if place == 'head.fc.weight'), ())
    head = dict(type='LinearClsHead', num_classes=fc[0], in_channels=fc[1]) if len(fc) == 2 else None
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='mmkerv.ResNet', depth=depth, conv_cfg=dict(type='mmkerv.CoCConv')),
        neck=dict(type='GlobalAveragePooling'),
        head=head,
    )
    return Config(dict(default_scope='mmpretrain', model=model))


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Return each parameter's name in an OpenMMLab network, below ``backbone.`` or a head.

    If no name begins with ``backbone.``, all are taken for a backbone's but the classifier's: torchvision's ``fc`` and
    ``classifier`` are mmpretrain's ``head.fc``, or ``head.layers.0.fc``, ``head.layers.1.fc``, ... for several linear
    layers. The deep stem of mmpretrain's ResNetV1c and V1d is numbered as mmdet and mmseg number it.

    Raises:
        CheckpointMismatchError: if two names become one.

    Example:
        >>> canonical_names(['module.conv1.weight', 'module.fc.bias'])
        {'module.conv1.weight': 'backbone.conv1.weight', 'module.fc.bias': 'head.fc.bias'}
        >>> canonical_names(['backbone.conv1.weight', 'fc.bias'])
        {'backbone.conv1.weight': 'backbone.conv1.weight', 'fc.bias': 'fc.bias'}
    """
    places = {name: _number_deep_stem(re.sub(r'^(module\.)+', '', name)) for name in names}
    if not any(place.startswith(BACKBONE) for place in places.values()):
        places = _below_backbone(places)
    taken: dict[str, str] = {}
    for name, place in places.items():
        if taken.setdefault(place, name) != name:
            raise CheckpointMismatchError(f'{taken[place]} and {name} are both {place}; leave one of them out')
    return places


def names_by_layer_order(given: Mapping[str, tuple], wanted: Mapping[str, tuple]) -> dict[str, str]:
    """Return mmpretrain's names for torchvision's in a family of ``SAME_LAYER_ORDER``; empty for other networks.

    Args:
        given: shapes by the checkpoint's names, as :func:`canonical_names` returns them, in the order of the layers.
        wanted: shapes by the plain network's names.

    Raises:
        CheckpointMismatchError: if the two differ in the kind or shape of a layer.

    Example:
        >>> torchvision_name = SAME_LAYER_ORDER['ShuffleNetV2']
        >>> mmpretrain_name = 'backbone.layers.0.0.branch1.0.conv.weight'
        >>> names_by_layer_order({torchvision_name: (24, 1, 3, 3)}, {mmpretrain_name: (24, 1, 3, 3)})
        {'backbone.stage2.0.branch1.0.weight': 'backbone.layers.0.0.branch1.0.conv.weight'}
    """
    families = (family for family, name in SAME_LAYER_ORDER.items() if name in given and name not in wanted)
    family = next(families, None)
    if family is None:
        return {}
    theirs, ours = (
        [name for name in names if name.startswith(BACKBONE) and not name.endswith(BATCH_COUNTER)]
        for names in (given, wanted)
    )
    modules = {}
    for their_name, our_name in zip_longest(theirs, ours):
        kinds = {(name or '').rpartition('.')[2] for name in (their_name, our_name)}
        if len(kinds) > 1 or given[their_name] != wanted[our_name]:
            actual, expected = f'{their_name} {given.get(their_name, "")}', f'{our_name} {wanted.get(our_name, "")}'
            raise CheckpointMismatchError(
                f"torchvision's {family} ({len(theirs)} tensors) and the backbone ({len(ours)} tensors) do not agree "
                f'layer by layer: {actual} was found where {expected} is expected. Give, with --config, '
                f'{family} of mmpretrain with the same width'
            )
        modules[their_name.rpartition('.')[0]] = our_name.rpartition('.')[0]
    parts = ((name, *name.rpartition('.')) for name in given if name.startswith(BACKBONE))
    return {name: f'{modules[module]}.{parameter}' for name, module, _, parameter in parts}


def _build(cfg: Config) -> nn.Module:
    if not cfg.get('model'):
        raise ConfigError("the config has no model; give one with model=dict(type=...), such as a training run's")
    enter_scope(cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS.build(copy.deepcopy(cfg.model))


def _initialise(network: nn.Module) -> None:
    """Initialise a network as its library does before training, from a fixed seed, without reading any checkpoint."""
    for module in network.modules():
        init_cfgs = getattr(module, 'init_cfg', None) or []
        init_cfgs = [init_cfgs] if isinstance(init_cfgs, dict) else init_cfgs
        kept = [cfg for cfg in init_cfgs if local_name(cfg.get('type'), ('', 'mmengine')) not in PRETRAINED]
        if len(kept) < len(init_cfgs):
            # Networks test whether init_cfg is None, not whether it is empty.
            module.init_cfg = kept or None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draw_initial_weights(network)


def _canonical_places(network: nn.Module, weights: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the canonical names of the network's and of the checkpoint's parameters, by their own names."""
    own, operators = network.state_dict(), _operators(network)
    operator_only = {f'{name}.{key}' for name, operator in operators.items() for key in operator.own_parameters()}
    # An operator without a basic kernel has a place for a plain weight too, so that such a weight is refused there.
    absent = [f'{name}.weight' for name, operator in operators.items() if operator.weight is None]
    ours = canonical_names([*own, *absent])
    wanted = {place: _shape(own[name]) for name, place in ours.items() if name in own and name not in operator_only}
    theirs = canonical_names(weights)
    renamed = names_by_layer_order({place: _shape(weights[name]) for name, place in theirs.items()}, wanted)
    return ours, {name: renamed.get(place, place) for name, place in theirs.items()}


def _below_backbone(places: dict[str, str]) -> dict[str, str]:
    """Return the places of bare names: a linear classifier's in the head, all others in the backbone."""
    linear = dict.fromkeys(p.rpartition('.')[0] for p in places.values() if _top_level(p) in ('fc', 'classifier'))
    heads = [f'head.layers.{i}.fc' for i in range(len(linear))] if len(linear) > 1 else ['head.fc']
    linear = dict(zip(linear, heads))

    def place_of(name: str) -> str:
        module, _, parameter = name.rpartition('.')
        if module in linear:
            return f'{linear[module]}.{parameter}'
        return name if _top_level(name) == 'head' else f'{BACKBONE}{name}'

    return {name: place_of(place) for name, place in places.items()}


def _number_deep_stem(name: str) -> str:
    """Name the deep stem as mmdet and mmseg do: convolution, norm and activation, three times, in one Sequential."""
    return DEEP_STEM.sub(lambda match: f'{match[1]}{3 * int(match[2]) + (match[3] == "bn")}.', name)


def _require_convolutions(network: nn.Module, given: Mapping[str, Any], source: str) -> None:
    """Refuse operators that cannot compute the convolution with the weight they are given."""
    taking = {name: operator for name, operator in _operators(network).items() if f'{name}.weight' in given}
    near = [name for name, operator in taking.items() if operator.decomposes_weight]
    weightless = [name for name, operator in taking.items() if operator.weight is None and name not in near]
    # A generated kernel that does not start as the identity is refused by require_match, with advice of its own.
    other = [n for n, op in taking.items() if not (op.starts_as_identity or isinstance(op, GeneratedKernel))]
    for names, reason in (
        (weightless, 'have no basic kernel to take the weight of a plain convolution'),
        (near, 'only come near it; tools/model_converters/decompose.py makes such a network and says how near'),
        (other, 'compute something other than the convolution with their weight'),
    ):
        if names:
            raise CheckpointMismatchError(
                f'checkpoint {source!r} is of a plain network, and {len(names)} operators such as {names[0]} '
                f'({type(taking[names[0]]).__name__}) {reason}. Train this network from its own initial values, keep '
                'those layers plain with where, or use CoCConv'
            )


def _operators(network: nn.Module) -> dict[str, ConvNd]:
    return {name: module for name, module in network.named_modules() if isinstance(module, ConvNd)}


def _top_level(name: str) -> str:
    """Return the top-level part of a network that a parameter belongs to."""
    return name.partition('.')[0]


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a tensor, ``()`` for anything else."""
    return tuple(getattr(value, 'shape', ()))
