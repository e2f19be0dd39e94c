"""Constructor that gives ConvMuon the hidden weights of a network, and AdamW or SGD all other parameters."""

import copy
import inspect
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPERS as UPSTREAM_WRAPPERS
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mmkerv.engine.optim.conv_muon import MUON, OTHERS, ConvMuon, other_settings
from mmkerv.engine.optim.operator_rules import OperatorRulesConstructor
from mmkerv.errors import ConfigError
from mmkerv.models.kept_layers import kept_by
from mmkerv.models.stages import find_stages
from mmkerv.ops.core.arguments import reject_unknown
from mmkerv.ops.core.base import ConvNd
from mmkerv.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS, local_name
from mmkerv.utils import log, unwrapped

NAME = 'mmkerv.ConvMuonConstructor'
REST = 'optim_wrapper.paramwise_cfg.rest'
# Why a parameter is no hidden weight, as the log counts it.
VECTOR = 'norms, biases and other vectors'
OPERATOR = "operators' own"
UNKNOWN = 'not the weight of a convolution or linear layer'
STEM, LAST, PART, DEPTHWISE = 'stem', 'last layers', 'offsets and attention', 'depthwise'
NAMED = 'rest_names'


class Role(NamedTuple):
    """Role of a parameter.

    Args:
        reason: why it is not orthogonalised; empty for a hidden weight.
        groups: channel groups of its convolution.

    Example:
        >>> Role().reason
        ''
    """

    reason: str = ''
    groups: int = 1


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ConvMuonConstructor(OperatorRulesConstructor):
    """Optimizer constructor that gives :class:`ConvMuon` the hidden weights, and AdamW or SGD all other parameters.

    Hidden weights are those of convolutions and linear layers, and the basic weights of operators, but for

    * layers before the first stage of the backbone, or the first layer of a network without stages;
    * last layers: those outside the stages whose number of outputs no other layer there takes as inputs, or the last
      layer of a network without stages;
    * depthwise convolutions and others whose channel groups have a single filter, tap or input channel;
    * convolutions inside a layer of another kind, which compute offsets or attention;
    * transposed convolutions, embeddings, stacked projections of attention, and parametrized weights.

    These, norms, biases and all other parameters of operators (super layers, kernel nets, gates, positions, branches)
    are updated by ``rest``. The log counts both, and lists the names at level ``DEBUG``.

    The factors of the config and of the operators on learning rate and weight decay (``custom_keys``,
    ``norm_decay_mult``, ``no_decay`` ...) apply to both, each to its own learning rate and weight decay, see
    :class:`OperatorRulesConstructor`. Schedulers of the learning rate scale all groups alike. One of the momentum needs
    ``rest`` to be SGD.

    Args:
        optim_wrapper_cfg: see mmengine's ``DefaultOptimWrapperConstructor``; ``optimizer.type`` is
            ``'mmkerv.ConvMuon'``.
        paramwise_cfg: likewise, with the keys of :class:`OperatorRulesConstructor` and

            * ``rest``: optimizer of all other parameters, ``dict(type='AdamW', lr=...)`` or ``'SGD'``;
            * ``rest_names``: regular expressions; a parameter whose name one of them matches goes to ``rest``;
            * ``muon_names``: likewise, to :class:`ConvMuon`, whatever the list above says.

    Raises:
        ConfigError: for another optimizer, a missing or invalid ``rest``, an expression that matches no parameter or,
            in ``muon_names``, a vector; for ``custom_keys`` with other settings than factors, and for a network without
            hidden weights.

    Example:
        >>> from mmengine.optim import build_optim_wrapper
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
        >>> cfg = dict(constructor='mmkerv.ConvMuonConstructor', optimizer=dict(type='mmkerv.ConvMuon', lr=0.02))
        >>> wrapper = build_optim_wrapper(net, {**cfg, 'paramwise_cfg': dict(rest=dict(type='AdamW', lr=1e-3))})
        >>> [(group['rule'], group['lr'], len(group['params'])) for group in wrapper.optimizer.param_groups]
        [('muon', 0.02, 1), ('AdamW', 0.001, 5)]
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        self.wrapper_cfg = copy.deepcopy(dict(optim_wrapper_cfg))
        optimizer = self.wrapper_cfg.pop('optimizer', None)
        kind = optimizer.get('type') if isinstance(optimizer, Mapping) else optimizer
        if local_name(kind, ('mmkerv',)) != ConvMuon.__name__:
            raise ConfigError(
                f"{NAME} needs optim_wrapper.optimizer=dict(type='mmkerv.ConvMuon', ...), got {optimizer!r}; leave the "
                'constructor out for another optimizer'
            )
        self.muon = {key: value for key, value in optimizer.items() if key != 'type'}
        known = [key for key in inspect.signature(ConvMuon).parameters if key not in ('params', 'groups')]
        reject_unknown('optim_wrapper.optimizer=mmkerv.ConvMuon', [key for key in self.muon if key not in known], known)
        # The rules of the config and of the operators are factors: applied to 1, they are left with the factors.
        super().__init__(
            {'type': 'OptimWrapper', 'optimizer': dict(type='SGD', lr=1.0, weight_decay=1.0)}, paramwise_cfg
        )
        rules = self.rules if isinstance(self.rules, dict) else {}
        self.rule, self.rest = _checked_rest(rules.pop('rest', None))
        self.names = {key: _checked_names(key, rules.pop(key, ())) for key in ('rest_names', 'muon_names')}
        for key, value in (rules.get('custom_keys') or {}).items():
            if extra := sorted(set(value) - {'lr_mult', 'decay_mult'}):
                raise ConfigError(
                    f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}] has {extra[0]!r}; with {NAME} it may have '
                    'lr_mult and decay_mult'
                )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper for a network.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 2))
            >>> build = ConvMuonConstructor(
            ...     dict(optimizer=dict(type='mmkerv.ConvMuon')), dict(rest=dict(type='SGD', lr=0.1))
            ... )
            >>> len(build(net).optimizer.param_groups)
            2
        """
        with _without_factors():
            factors = super().__call__(model)
        if isinstance(factors, OptimWrapperDict):
            raise ConfigError(
                f'{NAME} makes one optimizer, and paramwise_cfg.constructor={self.constructor!r} several; leave it out'
            )
        bare = unwrapped(model)
        roles = self._roles(bare)
        names = {id(parameter): name for name, parameter in bare.named_parameters()}
        groups: dict[tuple, list[nn.Parameter]] = {}
        for group in factors.optimizer.param_groups:
            for parameter in group['params']:
                reason, conv_groups = roles[names[id(parameter)]]
                key = (bool(reason), 1 if reason else conv_groups, group['lr'], group['weight_decay'])
                groups.setdefault(key, []).append(parameter)
        # Hidden weights first: mmengine logs the learning rate of the first group.
        built = [self._group(parameters, *key) for key, parameters in sorted(groups.items(), key=lambda item: item[0])]
        self._report(built, names, roles)
        if not any(group['rule'] == MUON for group in built):
            counts = ', '.join(f'{reason}: {count}' for reason, count in _counts(built, names, roles))
            raise ConfigError(
                f'{NAME}: the network has no hidden weight to orthogonalise ({counts}); use another optimizer, or name '
                'weights in optim_wrapper.paramwise_cfg.muon_names'
            )
        optimizer = OPTIMIZERS.build(dict(type=ConvMuon, params=built, **self.muon))
        cfg = {'type': 'OptimWrapper', **self.wrapper_cfg}
        return UPSTREAM_WRAPPERS.build(cfg, default_args=dict(optimizer=optimizer))

    def _group(
        self, parameters: list[nn.Parameter], is_rest: bool, conv_groups: int, lr_mult: float, decay_mult: float
    ) -> dict[str, Any]:
        """Return a group of parameters; the factors apply to its rule's own learning rate and weight decay."""
        if is_rest:
            settings = {**other_settings(self.rule, {'params': parameters, **self.rest}), 'rule': self.rule}
        else:
            settings = {**ConvMuon([parameters[0]], **self.muon).defaults, 'groups': conv_groups}
        settings['lr'] *= lr_mult
        settings['weight_decay'] *= decay_mult
        return {'params': parameters, **settings}

    def _roles(self, model: nn.Module) -> dict[str, Role]:
        """Return the roles of the parameters, with what the config names."""
        roles, parameters = parameter_roles(model), dict(model.named_parameters())
        for key, patterns in self.names.items():
            for pattern in patterns:
                matched = [name for name in roles if re.search(pattern, name)]
                if not matched:
                    raise ConfigError(f'optim_wrapper.paramwise_cfg.{key}: {pattern!r} matches no parameter')
                for name in matched:
                    if key == 'muon_names' and parameters[name].dim() < 2:
                        raise ConfigError(
                            f'optim_wrapper.paramwise_cfg.{key}: {pattern!r} matches {name} of shape '
                            f'{tuple(parameters[name].shape)}, and a vector cannot be orthogonalised; end the '
                            "expression in r'\\.weight$' or the like"
                        )
                    roles[name] = roles[name]._replace(reason='' if key == 'muon_names' else NAMED)
        return roles

    def _report(self, groups: list[dict[str, Any]], names: Mapping[int, str], roles: Mapping[str, Role]) -> None:
        # Without any rule in the config, mmengine gives an optimizer the frozen parameters too.
        given = sum(len(group['params']) for group in groups)
        groups = [{**group, 'params': [p for p in group['params'] if p.requires_grad]} for group in groups]
        hidden = [p for group in groups if group['rule'] == MUON for p in group['params']]
        rest = [p for group in groups if group['rule'] != MUON for p in group['params']]
        numbers = sum(p.numel() for p in hidden), sum(p.numel() for p in (*hidden, *rest))
        counts = ', '.join(f'{reason}: {count}' for reason, count in _counts(groups, names, roles))
        frozen = given - len(hidden) - len(rest)
        log(
            f'mmkerv: ConvMuon orthogonalises the updates of {len(hidden)} weights, {numbers[0]:,} of {numbers[1]:,} '
            f'parameters; {self.rule} for {len(rest)} others ({counts})'
            + (f'; {frozen} in the optimizer are frozen' if frozen else '')
        )
        for group in groups:
            for parameter in group['params']:
                name = names[id(parameter)]
                log(
                    f'mmkerv: {name}: {group["rule"]}, lr={group["lr"]:g}, weight_decay={group["weight_decay"]:g}'
                    + (f' ({roles[name].reason})' if roles[name].reason else ''),
                    logging.DEBUG,
                )


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """Return the role of each parameter by name, as :class:`ConvMuonConstructor` describes it.

    A parameter that layers share is a hidden weight if it is one in each of them.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), CoCConv2d(8, 8, 3, bias=False), nn.Linear(8, 2))
        >>> [name for name, role in parameter_roles(net).items() if not role.reason]
        ['1.weight']
    """
    found: dict[int, Role] = {}
    inside = {part for m in model.modules() if isinstance(m, ConvNd) for part in m.modules() if part is not m}
    outer, parts = _outer_layers(model, inside), kept_by(model)
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            groups = _conv_groups(module) if key == 'weight' else 0
            if module in inside or (isinstance(module, ConvNd) and key not in ('weight', 'bias')):
                role = Role(OPERATOR)
            elif parameter.dim() < 2:
                role = Role(VECTOR)
            elif not groups or (isinstance(module, ConvNd) and key in module.no_decay):
                role = Role(UNKNOWN)
            elif name in outer:
                role = Role(outer[name], groups)
            elif module in parts:
                role = Role(PART, groups)
            elif _is_depthwise(parameter.shape, groups):
                role = Role(DEPTHWISE, groups)
            else:
                role = Role('', groups)
            before = found.get(id(parameter), role)
            # Channel groups of several numbers have no common matrices.
            same = before.groups == role.groups
            found[id(parameter)] = (before if before.reason else role) if same else Role(UNKNOWN)
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


def _conv_groups(module: nn.Module) -> int:
    """Return the channel groups of a layer whose ``weight`` has a filter in each row, and 0 for any other module."""
    # Not getattr: a parametrized weight would be computed.
    weight = module._parameters.get('weight')
    if weight is None or weight.dim() < 2 or getattr(module, 'transposed', False):
        return 0
    if isinstance(module, nn.Linear):
        return 1
    # Deformable convolutions are of no class of torch's.
    is_convolution = isinstance(module, (_ConvNd, ConvNd)) or (hasattr(module, 'kernel_size') and weight.dim() == 4)
    if not is_convolution or len(weight) != getattr(module, 'out_channels', None):
        return 0
    return getattr(module, 'groups', 0)


def _is_depthwise(shape: tuple[int, ...], groups: int) -> bool:
    """Return whether the channel groups of a kernel have a single filter, tap or, of several groups, input channel."""
    rows, columns = shape[0] // groups, math.prod(shape[1:])
    return min(rows, columns) == 1 or (groups > 1 and shape[1] == 1)


def _outer_layers(model: nn.Module, inside: set[nn.Module]) -> dict[str, str]:
    """Return the layers at the ends of a network, its stem and its last layers, by name; none of those ``inside``."""
    layers = {name: _widths(m) for name, m in model.named_modules() if m not in inside and all(_widths(m))}
    if not layers:
        return {}
    stages = find_stages(model, layers)
    if stages is None:
        first, *_ = layers
        *_, last = layers
        return {first: STEM, last: LAST}
    takers = Counter(inputs for name, (inputs, _) in layers.items() if stages[name] is None)
    ends = {}
    for name, (inputs, outputs) in layers.items():
        if stages[name] == 0:
            ends[name] = STEM
        elif stages[name] is None and takers[outputs] == (inputs == outputs):
            ends[name] = LAST
    return ends


def _widths(module: nn.Module) -> tuple[int, int]:
    """Return the channels that a convolution or linear layer takes and gives, zeros for any other module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, (_ConvNd, ConvNd)) or _conv_groups(module):
        return module.in_channels, module.out_channels
    return 0, 0


def _checked_rest(rest: Any) -> tuple[str, dict[str, Any]]:
    """Return the rule of all other parameters and its settings."""
    example = f"write {REST}=dict(type='AdamW', lr=1e-3, weight_decay=0.05)"
    if not isinstance(rest, Mapping) or not {'type', 'lr'} <= rest.keys():
        raise ConfigError(
            f'{REST} must have the type and lr of the optimizer of all other parameters, got {rest!r}; {example}'
        )
    rule = rest['type'] if isinstance(rest['type'], str) else getattr(rest['type'], '__name__', rest['type'])
    if rule not in OTHERS:
        raise ConfigError(f'{REST}.type must be one of {", ".join(map(repr, OTHERS))}, got {rest["type"]!r}; {example}')
    settings = {key: value for key, value in rest.items() if key != 'type'}
    try:
        # Fused steps of torch 2.1 need parameters on a GPU; SGD has none there, and refuses the name.
        unchecked = {'fused'} & inspect.signature(OTHERS[rule]).parameters.keys()
        OTHERS[rule]([nn.Parameter()], **{key: value for key, value in settings.items() if key not in unchecked})
        if settings.get('fused') and settings.get('foreach'):
            raise ValueError('fused and foreach exclude each other')
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f'{REST}: {rule} refuses {settings}: {error}') from error
    return rule, settings


def _checked_names(key: str, names: Any) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else names
    try:
        return tuple(re.compile(name).pattern for name in names)
    except (re.error, TypeError) as error:
        raise ConfigError(
            f'optim_wrapper.paramwise_cfg.{key} must be regular expressions, got {names!r}: {error}'
        ) from error


def _counts(
    groups: Iterable[Mapping[str, Any]], names: Mapping[int, str], roles: Mapping[str, Role]
) -> list[tuple[str, int]]:
    """Return how many parameters are no hidden weights, by reason."""
    reasons = (roles[names[id(p)]].reason for group in groups for p in group['params'])
    return sorted(Counter(reason for reason in reasons if reason).items(), key=lambda item: (-item[1], item[0]))


@contextmanager
def _without_factors() -> Iterator[None]:
    """Keep mmengine from logging factors as learning rates and weight decays."""

    def is_something_else(record: logging.LogRecord) -> bool:
        return 'paramwise_options' not in record.getMessage()

    logger = MMLogger.get_current_instance()
    logger.addFilter(is_something_else)
    try:
        yield
    finally:
        logger.removeFilter(is_something_else)
