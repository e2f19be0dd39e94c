"""From a plain network's checkpoint to an operator network's: each weight finds its place, each operator its start."""

import copy
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmkerv.engine.checkpoint.atomic_write import save_checkpoint
from mmkerv.engine.checkpoint.match import CheckpointMatch, match_checkpoint, named, require_match, weights_of
from mmkerv.engine.checkpoint.plain_names import BODY, canonical, in_order, part, shape
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.errors import CheckpointMismatchError, ConfigError
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.kerv import LINEAR, Kervolution

# Whether the blocks are bottlenecks, and their numbers.
RESNETS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}


def convert_checkpoint(
    src: str | Path, dst: str | Path, cfg: Config | None = None, *, trust: bool = False
) -> CheckpointMatch:
    """Write ``dst``, a checkpoint of an operator network, from ``src``, one of the plain network.

    Names and shapes are compared; what they do not show (strides, dilations, ``style='caffe'``) is the config's.

    Args:
        src: checkpoint of torchvision or OpenMMLab: bare weights, or what a runner saved.
        dst: file to write; it loads strictly into the operator network.
        cfg: config whose ``model`` is the operator network; by default the ResNet that the names of ``src`` tell, an
            mmpretrain ``ImageClassifier`` with ``mmkerv.ResNet`` and ``CoCConv``.
        trust: as :func:`mmkerv.engine.safe_load` has it.

    Returns:
        What was loaded, missing and unexpected, and the operators' parameters.

    Raises:
        CheckpointMismatchError: as :func:`convert_plain`; nothing is written.
        ConfigError: without ``cfg``, if the names are not those of a ResNet.

    Example:
        >>> convert_checkpoint('resnet50.pth', 'resnet50_coc.pth')  # doctest: +SKIP
    """
    weights = {str(name): value for name, value in weights_of(safe_load(src, trust=trust), str(src)).items()}
    network = _built(infer_config(weights, str(src)) if cfg is None else cfg)
    match = convert_plain(network, weights, str(src))
    save_checkpoint({'meta': {}, 'state_dict': network.state_dict()}, dst)
    return match


def convert_plain(network: nn.Module, weights: Mapping[str, Any], source: str) -> CheckpointMatch:
    """Load a plain network's weights into an operator network, so that it computes what the plain one computed.

    The backbone must be loaded completely. A neck or head that the weights do not have keeps its start, one that the
    network does not have is left out, and so are the tensors of a head for another number of classes.

    Args:
        network: operator network, changed in place; it is not if there is an error.
        weights: of the plain network.
        source: where they come from, for messages.

    Returns:
        ``loaded`` and ``missing`` by the network's names, ``unexpected`` by the checkpoint's, and as ``operator_only``
        the operators' parameters, which are at their start.

    Raises:
        CheckpointMismatchError: if the weights are of a network of another depth, width or family, or if operators do
            not start as the convolution by the weight they are given.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> plain, network = nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Sequential(CoCConv2d(3, 8, 3))
        >>> print(convert_plain(network, plain.state_dict(), 'a.pth'))
        2 parameters loaded; 2 kept by the operators (plain checkpoint) (0.super_layers.0.weight, 0.super_layers.0.bias)
    """
    own = network.state_dict()
    ours, theirs = _places(network, weights)
    names = {place: name for name, place in ours.items()}
    given = {names[place]: weights[name] for name, place in theirs.items() if place in names}
    unexpected = [name for name, place in theirs.items() if place not in names]
    _require_convolutions(network, given, source)

    # A neck or head of which both have something must fit as the backbone must.
    shared = {part(place) for place in theirs.values() if place in names} | {part(BODY)}
    match = match_checkpoint(network, given)
    classes = [n for n in match.shapes if part(ours[n]).endswith('head') and _differ_in_number(own[n], given[n])]
    wrong = match._replace(
        missing=[name for name in match.missing if part(ours[name]) in shared],
        unexpected=[name for name in unexpected if part(theirs[name]) in shared],
        shapes=[name for name in match.shapes if name not in classes],
        operator_only=[],
    )
    if wrong.missing or wrong.unexpected or wrong.shapes:
        pairs = [
            f'; {name} is {shape(given[name])} in the checkpoint and {shape(own[name])} in the network'
            for name in wrong.shapes[:3]
        ]
        raise CheckpointMismatchError(
            f'checkpoint {source!r} is of another network than the one it is converted for: {wrong}{"".join(pairs)}. '
            'Give, with --config, an operator network of the same family, depth and width'
        )
    unexpected += [name for name, place in theirs.items() if names.get(place) in classes]
    given = {name: value for name, value in given.items() if name not in classes}
    absent = match_checkpoint(network, given).missing
    # The start of what is missing stands in for it, so that all else is checked as any checkpoint is.
    complete = {**given, **{name: own[name] for name in absent}}
    operator_only = require_match(network, complete, source).operator_only
    if absent:
        _start(network)
        own = network.state_dict()
        complete |= {name: own[name] for name in absent}
    network.load_state_dict(complete)
    return CheckpointMatch(list(given), absent, unexpected, [], operator_only)


def infer_config(weights: Mapping[str, Any], source: str) -> Config:
    """Return the config of the classifier that a ResNet's parameters tell, with ``CoCConv`` in place of ``nn.Conv2d``.

    Args:
        weights: of a ResNet by torchvision's or OpenMMLab's names; without ``fc`` there will be no head.
        source: where they come from, for messages.

    Raises:
        ConfigError: if the names are not those of ResNet-18, 34, 50, 101 or 152.

    Example:
        >>> infer_config({'fc.weight': torch.ones(10, 512)}, 'a.pth')
        Traceback (most recent call last):
        ...
        mmkerv.errors.ConfigError: the network of 'a.pth' cannot be told from its names, ...
    """
    places = canonical(weights)
    found = {match.groups() for place in places.values() if (match := re.match(r'backbone\.layer(\d)\.(\d+)\.', place))}
    blocks = tuple(sum(layer == str(i) for layer, _ in found) for i in range(1, 5))
    bottleneck = f'{BODY}layer1.0.conv3.weight' in places.values()
    depth = RESNETS.get((bottleneck, blocks))
    if depth is None or f'{BODY}conv1.weight' not in places.values():
        raise ConfigError(
            f'the network of {source!r} cannot be told from its names, such as {", ".join(list(weights)[:3])}'
            ': they are not those of ResNet-18, 34, 50, 101 or 152; give --config CONFIG, whose model is the operator '
            'network'
        )
    fc = next((shape(weights[name]) for name, place in places.items() if place == 'head.fc.weight'), ())
    head = dict(type='LinearClsHead', num_classes=fc[0], in_channels=fc[1]) if len(fc) == 2 else None
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='mmkerv.ResNet', depth=depth, conv_cfg=dict(type='mmkerv.CoCConv')),
        neck=dict(type='GlobalAveragePooling'),
        head=head,
    )
    return Config(dict(default_scope='mmpretrain', model=model))


def summary(match: CheckpointMatch) -> str:
    """Say in words what :func:`convert_plain` returned.

    Example:
        >>> print(summary(CheckpointMatch(['a', 'b'], ['head.fc.bias'], [], [], ['a.super_layers.0.weight'])))
        2 parameters loaded, 1 missing (head.fc.bias), 0 unexpected; 1 parameters of operators at their start
    """
    return (
        f'{len(match.loaded)} parameters loaded, {named(match.missing, "missing")}, '
        f'{named(match.unexpected, "unexpected")}; {len(match.operator_only)} parameters of operators at their start'
    )


def _built(cfg: Config) -> nn.Module:
    if not cfg.get('model'):
        raise ConfigError("the config has no model; give one with model=dict(type=...), such as a training run's")
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS.build(copy.deepcopy(cfg.model))


def _start(network: nn.Module) -> None:
    """Initialise a network as its library does before training, from a fixed seed, without reading any checkpoint."""
    for module in network.modules():
        given = getattr(module, 'init_cfg', None) or []
        given = [given] if isinstance(given, dict) else given
        kept = [cfg for cfg in given if cfg.get('type') not in ('Pretrained', PretrainedInit)]
        if len(kept) < len(given):
            # Networks ask whether there is one, not how long it is.
            module.init_cfg = kept or None
    if not hasattr(network, 'init_weights'):
        return
    logger = MMLogger.get_current_instance()
    level = logger.level
    # mmengine says of each parameter how it was initialised.
    logger.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network.init_weights()
    finally:
        logger.setLevel(level)


def _places(network: nn.Module, weights: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Where the network's parameters stand, by name, and where the checkpoint's do."""
    own, operators = network.state_dict(), _operators(network)
    beyond = {f'{n}.{p}' for n, o in operators.items() for p, _ in o.named_parameters() if p not in ('weight', 'bias')}
    # The weight that an operator without a basic kernel would have has a place too: what comes there is refused.
    ours = canonical([*own, *(f'{name}.weight' for name, operator in operators.items() if operator.weight is None)])
    wanted = {place: shape(own[name]) for name, place in ours.items() if name in own and name not in beyond}
    theirs = canonical(weights)
    moved = in_order({place: shape(weights[name]) for name, place in theirs.items()}, wanted)
    return ours, {name: moved.get(place, place) for name, place in theirs.items()}


def _require_convolutions(network: nn.Module, given: Mapping[str, Any], source: str) -> None:
    """Refuse operators that cannot compute the convolution by the weight they are given, however they start."""
    taking = {name: operator for name, operator in _operators(network).items() if f'{name}.weight' in given}
    empty = [name for name, operator in taking.items() if operator.weight is None]
    other = [n for n, op in taking.items() if isinstance(op, Kervolution) and op.kernel_name != LINEAR]
    for names, reason in (
        (empty, 'have no basic kernel to take the weight of a plain convolution'),
        (other, 'compute something other than a convolution by their weight'),
    ):
        if names:
            raise CheckpointMismatchError(
                f'checkpoint {source!r} is of a plain network, and {len(names)} operators such as {names[0]} '
                f'({type(taking[names[0]]).__name__}) {reason}. Train this network from its own start, keep those '
                'layers plain with where, or use CoCConv'
            )


def _operators(network: nn.Module) -> dict[str, ConvNd]:
    return {name: module for name, module in network.named_modules() if isinstance(module, ConvNd)}


def _differ_in_number(own: Any, given: Any) -> bool:
    """Whether two tensors have equal slices: a classifier's, for two numbers of classes."""
    return len(shape(own)) == len(shape(given)) and shape(own)[1:] == shape(given)[1:]
