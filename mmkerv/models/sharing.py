"""Layers of one shape in a stage that hold the same Parameters: kernels, positions, or any other."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError, ArgumentTypeError
from mmkerv.models.placement import Where, selected
from mmkerv.models.stages import find_stages
from mmkerv.ops.core.arguments import reject_unknown
from mmkerv.ops.core.base import Conv2d
from mmkerv.utils import log

KERNEL = ('weight', 'bias')
SHAPE = ('in_channels', 'out_channels', 'kernel_size', 'stride', 'dilation', 'groups')


def share_parameters(model: nn.Module, names: str | Iterable[str], where: Where | dict | None = None) -> nn.Module:
    r"""Make the layers of one shape in a stage hold the same Parameters, in place.

    :math:`\theta_l = \theta_{l'}` for all selected layers l, l' of a stage with the same class, options, channels,
    kernel size, stride, dilation and groups. The first of them keeps its Parameters and the others take them; a warning
    tells if their values differed. Stages are those of :class:`mmkerv.models.placement.Where`; a network without stages
    is one, and layers outside the stages (necks, heads) share only if ``where.names`` selects them.

    The keys of the state dict stay the same, so checkpoints of the network without sharing load; of differing values
    the last one wins, with a warning. ``parameters()``, optimizers and DistributedDataParallel see each Parameter once.
    Call it before the optimizer is built; in a config, give ``share`` to ``mmkerv.Converted``.

    Args:
        model: any network.
        names: names of the Parameters in the layers, such as ``'positions'``, or ``'super_layers.0.weight'``. Layers
            that lack all of them are left out.
        where: rule that selects the layers, see :class:`mmkerv.models.placement.Where`; by default all layers in the
            stages.

    Returns:
        ``model``.

    Raises:
        ValueError: if no selected layer has such a Parameter, or no two layers can share.
        TypeError: if ``names`` are no names, or for an unknown key of ``where``.

    Source: Dilated Convolution with Learnable Spacings, ICLR 2023, section 4, for the positions of a stage.

    Example:
        >>> from mmkerv.ops import DCLSConv2d
        >>> model = nn.Sequential(*(DCLSConv2d(8, 8, 3, padding=1) for _ in range(3)))
        >>> model = share_parameters(model, 'positions')
        >>> model[0].positions is model[2].positions, len(list(model.parameters())), len(model.state_dict())
        (True, 7, 9)
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names or not all(isinstance(name, str) for name in names):
        raise ArgumentTypeError(f"names must be names of parameters, such as 'positions', got {names!r}")
    rule = None if where is None else Where.of(where)
    layers = selected(model, rule, (nn.Conv2d, Conv2d))
    holders = {name: held for name, layer in layers.items() if (held := _held(layer, names))}
    if not holders:
        found = dict.fromkeys(name for layer in layers.values() for name, _ in layer.named_parameters())
        raise ArgumentError(
            f'names={names!r}: no selected layer has such a parameter; the {len(layers)} layers have '
            f'{", ".join(found) or "none"}; change names or where'
        )
    stages = find_stages(model, holders)
    groups: dict[tuple, list[str]] = {}
    for name, held in holders.items():
        stage = None if stages is None else stages[name]
        if stage is None and stages is not None and (rule is None or rule.names is None):
            continue
        groups.setdefault((stage, *_kind(layers[name], held)), []).append(name)
    shared = [group for group in groups.values() if len(group) > 1]
    if not shared:
        raise ArgumentError(
            f'names={names!r}: none of the {len(holders)} layers that have it, such as {next(iter(holders))}, has '
            'another of the same shape in its stage; select others with where'
        )
    ties = [_Tie(type(layers[group[0]]), name, tuple(group)) for group in shared for name in holders[group[0]]]
    differing = [tie.members[0] for tie in ties if not tie.agrees(_values(model, tie))]
    for tie in ties:
        tie.apply(model, tie.members[0])
    hook = _KeepTied(tuple(ties))
    model._register_load_state_dict_pre_hook(hook.check, with_module=True)
    model.register_load_state_dict_post_hook(hook.restore)
    count = sum(map(len, shared))
    log(
        f'mmkerv: {count} layers share {", ".join(dict.fromkeys(tie.name for tie in ties))} within {len(shared)} '
        f'stages and shapes, such as {shared[0][0]} and {shared[0][1]}; kept apart: {len(holders) - count}'
    )
    if differing:
        log(
            f'mmkerv: the values differed in {len(differing)} of the groups; those of the first layer, such as '
            f'{differing[0]}, are kept',
            logging.WARNING,
        )
    return model


def share_kernels(model: nn.Module, where: Where | dict | None = None) -> nn.Module:
    """Make the convolutions of one shape in a stage share weight and bias; norms stay the layers' own.

    It is :func:`share_parameters` for ``weight`` and ``bias``: a network of the same depth and cost with fewer
    parameters.

    Args:
        model: any network.
        where: as there.

    Returns:
        ``model``.

    Raises:
        ValueError: as there.
        TypeError: as there.

    Example:
        >>> model = share_kernels(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)))
        >>> model[0].weight is model[1].weight, model[1].weight is model[2].weight
        (False, True)
    """
    return share_parameters(model, KERNEL, where)


def apply_share(model: nn.Module, share: Any) -> nn.Module:
    """Apply the argument ``share`` of a config: the arguments of :func:`share_parameters`, or a list of such.

    Raises:
        TypeError: if it is something else.
        ValueError: as :func:`share_parameters`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
        >>> apply_share(model, dict(names='weight'))[0].weight is model[1].weight
        True
    """
    for each in share if isinstance(share, (list, tuple)) else [share]:
        if not isinstance(each, dict) or 'names' not in each:
            raise ArgumentTypeError(
                f"share must be a dict with 'names' and perhaps 'where', such as dict(names='positions'), got {each!r}"
            )
        reject_unknown('share', [key for key in each if key not in ('names', 'where')], ('names', 'where'))
        share_parameters(model, **each)
    return model


class _Tie:
    """Layers of one class that hold the same Parameter under one name."""

    def __init__(self, kind: type[nn.Module], name: str, members: tuple[str, ...]):
        self.kind, self.name, self.members = kind, name, members

    def apply(self, model: nn.Module, source: str) -> None:
        """Put the Parameter of ``source`` into every layer."""
        value = model.get_parameter(f'{source}.{self.name}')
        path, _, key = self.name.rpartition('.')
        for member in self.members:
            model.get_submodule(f'{member}.{path}'.rstrip('.'))._parameters[key] = value

    def holds(self, model: nn.Module) -> bool:
        """Return whether the layers are still there: folding replaces them, and their kernels may differ then."""
        modules = dict(model.named_modules(remove_duplicate=False))
        return all(
            type(layer := modules.get(member)) is self.kind and _held(layer, (self.name,)) for member in self.members
        )

    def agrees(self, values: list[Any]) -> bool:
        """Return whether all values are equal, as far as they are tensors with values."""
        first = values[0]
        if not all(isinstance(v, Tensor) and not v.is_meta and v.shape == first.shape for v in values):
            return True
        return all(v is first or torch.equal(v, first.to(v)) for v in values)


class _KeepTied:
    """Hooks of a network that load weights into shared Parameters.

    Loading with ``assign=True``, or after ``to_empty()``, gives every layer a Parameter of its own again.
    """

    def __init__(self, ties: tuple[_Tie, ...]):
        self.ties = ties

    def check(self, model: nn.Module, state_dict: dict, prefix: str, *args: Any) -> None:
        """Warn if a checkpoint has different values for one Parameter."""
        differing = []
        for tie in self.ties:
            keys = [f'{prefix}{member}.{tie.name}' for member in tie.members]
            values = [state_dict[key] for key in keys if key in state_dict]
            if values and tie.holds(model) and not tie.agrees(values):
                differing.append(keys[0])
        if differing:
            log(
                f'mmkerv: {len(differing)} shared parameters have different values in the checkpoint, such as '
                f'{differing[0]}; the last layer that shares it decides',
                logging.WARNING,
            )

    def restore(self, model: nn.Module, incompatible_keys: Any) -> None:
        """Share again what loading has separated."""
        for tie in self.ties:
            if tie.holds(model) and len({id(value) for value in _values(model, tie)}) > 1:
                tie.apply(model, tie.members[-1])


def _held(layer: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the names that are Parameters of a layer."""
    own = dict(layer.named_parameters())
    return tuple(name for name in names if name in own)


def _kind(layer: nn.Module, held: tuple[str, ...]) -> tuple:
    """Return what two layers must have in common to share."""
    parameters = [layer.get_parameter(name) for name in held]
    tensors = tuple((p.shape, p.dtype, p.device, p.requires_grad) for p in parameters)
    shape = tuple(getattr(layer, name, None) for name in SHAPE)
    return type(layer), repr(getattr(layer, 'options', None)), shape, held, tensors


def _values(model: nn.Module, tie: _Tie) -> list[Any]:
    return [model.get_parameter(f'{member}.{tie.name}') for member in tie.members]
