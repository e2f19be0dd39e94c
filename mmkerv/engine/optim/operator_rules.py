"""Weight decay and learning rates of operators' parameters, applied after whatever rules the config has.

mmengine's optimizer constructors know convolutions and norms by their class and everything else by its name. The facts
about an operator (``no_decay``, ``lr_mult``, ``norm_parameters``) are attributes of its class.
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as UPSTREAM
from torch import nn
from torch.optim import Optimizer

from mmkerv.errors import ConfigError
from mmkerv.models.inventory import config_name
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.initialisation import plain_convolutions
from mmkerv.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmkerv.utils import log, unwrapped

DEFAULT = 'DefaultOptimWrapperConstructor'
SWITCH = 'optim_wrapper.paramwise_cfg.operator_rules'
# Entries of a parameter group with one item for each parameter.
LISTS = ('params', 'param_names')


class OperatorParameter(NamedTuple):
    """A parameter of an operator that the operator has a rule for.

    Args:
        parameter: the parameter.
        fact: name in the operator's ``no_decay``, ``lr_mult`` or ``norm_parameters`` that covers it.
        operator: the operator.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> operator_parameters(nn.Sequential(CoCConv2d(3, 8, 3)))['0.super_layers.0.weight'].fact
        'super_layers'
    """

    parameter: nn.Parameter
    fact: str
    operator: ConvNd


class OperatorSetting(NamedTuple):
    """Settings that the optimizer has for the parameters of one name in the operators of one class.

    Args:
        fact: name in the operator's ``no_decay``, ``lr_mult`` or ``norm_parameters``.
        operator: name of the class in configs.
        count: number of parameters.
        weight_decay: smallest and largest weight decay; ``None`` if the optimizer has none.
        usual_decay: the weight decay that the optimizer gives by default.
        lr_factor: smallest and largest learning rate over the optimizer's default.

    Example:
        >>> print(OperatorSetting('positions', 'DCLSConv', 9, (0.0, 0.0), 0.05, (5.0, 5.0)))
        positions of DCLSConv (9): weight decay 0 (others 0.05), learning rate x5
    """

    fact: str
    operator: str
    count: int
    weight_decay: tuple[float, float] | None
    usual_decay: float | None
    lr_factor: tuple[float, float]

    @property
    def differs(self) -> bool:
        """Return whether these parameters have settings that others have not."""
        return self._decays_otherwise or self.lr_factor != (1.0, 1.0)

    @property
    def _decays_otherwise(self) -> bool:
        return self.weight_decay is not None and set(self.weight_decay) != {self.usual_decay}

    def __str__(self) -> str:
        parts = []
        if self.weight_decay is not None:
            others = f' (others {self.usual_decay:g})' if self._decays_otherwise else ''
            parts.append(f'weight decay {_range(self.weight_decay)}{others}')
        if self.lr_factor != (1.0, 1.0):
            parts.append(f'learning rate x{_range(self.lr_factor)}')
        return f'{self.fact} of {self.operator} ({self.count}): {", ".join(parts) or "as all others"}'


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OperatorRulesConstructor:
    """Optimizer constructor that adds the operators' own rules to those of the config.

    The config's rules are applied first, by mmengine's constructor or the one that ``paramwise_cfg`` names. To them an
    operator is the convolution it replaces, so ``dwconv_decay_mult`` and ``dcn_offset_lr_mult`` reach it. Then:

    * Parameters in ``no_decay`` of an operator's class get weight decay 0: super layers, learned balances and gammas,
      kernel nets.
    * ``norm_decay_mult`` applies to the parameters in ``norm_parameters`` too.
    * The learning rate of parameters in ``lr_mult`` is multiplied by that factor.

    A key of ``custom_keys`` that names such parameters and sets their factor takes precedence. One that only exempts
    them from weight decay, as ``super_layers=dict(decay_mult=0.0)``, is not needed any more: without this constructor
    it would cancel shorter keys such as ``backbone=dict(lr_mult=0.1)``, here it does not.

    ``tools/train.py`` puts it around every config's constructor. For upstream's script, name it in the config.

    Args:
        optim_wrapper_cfg: see mmengine's ``DefaultOptimWrapperConstructor``.
        paramwise_cfg: likewise, with two more keys. ``operator_rules=False`` leaves the rules of the config alone.
            ``constructor`` is the constructor that applies them, by default mmengine's.

    Raises:
        ConfigError: if ``operator_rules`` is neither true nor false.

    Example:
        >>> from mmengine.optim import build_optim_wrapper
        >>> from mmkerv.ops import CoCConv2d
        >>> sgd = dict(type='SGD', lr=1, weight_decay=0.1)
        >>> cfg = dict(constructor='mmkerv.OperatorRulesConstructor', optimizer=sgd)
        >>> wrapper = build_optim_wrapper(nn.Sequential(CoCConv2d(3, 8, 3)), cfg)
        >>> [(group['weight_decay'], len(group['params'])) for group in wrapper.param_groups]
        [(0.1, 2), (0.0, 1)]
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        self.optim_wrapper_cfg = optim_wrapper_cfg
        # Anything but a dict is refused by the constructor inside.
        self.rules = dict(paramwise_cfg) if isinstance(paramwise_cfg, dict) else paramwise_cfg
        extra = self.rules if isinstance(self.rules, dict) else {}
        self.operator_rules = extra.pop('operator_rules', True)
        self.constructor = extra.pop('constructor', DEFAULT)
        if not isinstance(self.operator_rules, bool):
            raise ConfigError(
                f'optim_wrapper.paramwise_cfg.operator_rules must be True or False, got {self.operator_rules!r}'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper for a network.

        Example:
            >>> cfg = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
            >>> type(OperatorRulesConstructor(cfg)(nn.Linear(2, 2))).__name__
            'OptimWrapper'
        """
        if self._wraps_its_kind():
            # The constructor inside applies the operators' rules; their factors must not apply twice.
            return self._build({**self.rules, 'operator_rules': self.operator_rules}, model)
        bare = unwrapped(model)
        found = operator_parameters(bare)
        if not any(isinstance(module, ConvNd) for module in bare.modules()) or not self.operator_rules:
            wrapper = self._build(self.rules or None, model)
            if found:
                listed = '; '.join(map(str, operator_settings(bare, wrapper)))
                log(f"mmkerv: {SWITCH}=False: the operators' own parameters have the rules of the config ({listed})")
            return wrapper
        rules = _without_facts(self.rules, found, bare) if isinstance(self.rules, dict) else self.rules
        if not rules and 'ZeroRedundancyOptimizer' in str(self.optim_wrapper_cfg.get('optimizer')):
            # The groups of this optimizer cannot be divided later; any rule gives each parameter a group of its own.
            rules = {'operator_rules': True}
        with plain_convolutions(bare, hide=False):
            wrapper = self._build(rules or None, model)
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        changes = self._changes(found, rules or {})
        for each in wrappers:
            regroup(each.optimizer, changes)
        if listed := '; '.join(str(setting) for setting in operator_settings(bare, wrapper) if setting.differs):
            log(f"mmkerv: the operators' own weight decay and learning rates: {listed}; {SWITCH}=False turns this off")
        return wrapper

    def _wraps_its_kind(self) -> bool:
        kind = UPSTREAM.get(self.constructor) if isinstance(self.constructor, str) else self.constructor
        return isinstance(kind, type) and issubclass(kind, OperatorRulesConstructor)

    def _build(self, rules: Any, model: nn.Module) -> OptimWrapper:
        # mmengine's constructor goes through the modules, and would give a shared parameter to the optimizer twice.
        if isinstance(rules, dict) and _shares_parameters(model):
            rules = {'bypass_duplicate': True, **rules}
        cfg = dict(type=self.constructor, optim_wrapper_cfg=self.optim_wrapper_cfg, paramwise_cfg=rules)
        return UPSTREAM.build(cfg)(model)

    def _changes(
        self, found: Mapping[str, OperatorParameter], rules: Mapping[str, Any]
    ) -> dict[int, tuple[str, dict[str, Any]]]:
        """Return for each parameter, by identity, its name and what its group is to have."""
        keys = rules.get('custom_keys') or {}
        optimizer = self.optim_wrapper_cfg.get('optimizer')
        decay = optimizer.get('weight_decay') if isinstance(optimizer, Mapping) else None
        changes = {}
        for name, (parameter, fact, operator) in found.items():
            key = _winning_key(keys, name)
            named = dict(keys[key]) if key is not None and fact in key else {}
            change: dict[str, Any] = {}
            if fact in operator.no_decay and 'decay_mult' not in named:
                change['weight_decay'] = 0.0
            norm_decay = rules.get('norm_decay_mult')
            if fact in operator.norm_parameters and key is None and norm_decay is not None and decay is not None:
                change['weight_decay'] = decay * norm_decay
            if fact in operator.lr_mult and 'lr_mult' not in named:
                change['lr_mult'] = operator.lr_mult[fact]
            if change:
                changes[id(parameter)] = name, change
        return changes


def _shares_parameters(model: nn.Module) -> bool:
    everywhere = sum(1 for _ in model.named_parameters(remove_duplicate=False))
    return sum(1 for _ in model.parameters()) < everywhere


def operator_parameters(model: nn.Module) -> dict[str, OperatorParameter]:
    """Return the parameters of operators that their classes have rules for, by name.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> list(operator_parameters(nn.Sequential(KervConv2d(3, 8, 3, learnable=True))))
        ['0.balance']
    """
    return {
        f'{prefix}.{name}' if prefix else name: OperatorParameter(parameter, fact, operator)
        for prefix, operator in model.named_modules()
        if isinstance(operator, ConvNd)
        for fact in dict.fromkeys((*operator.no_decay, *operator.norm_parameters, *operator.lr_mult))
        for name, parameter in operator.named_parameters()
        if name == fact or name.startswith(f'{fact}.')
    }


def operator_settings(model: nn.Module, wrapper: OptimWrapper) -> list[OperatorSetting]:
    """Return the settings in force for the parameters that operators have rules for.

    Args:
        model: bare network.
        wrapper: its optimizer wrapper, or a dict of such. Frozen parameters, which it does not have, are left out.

    Example:
        >>> import torch
        >>> from mmkerv.ops import CoCConv2d
        >>> net = nn.Sequential(CoCConv2d(3, 8, 3))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.05)
        >>> print(*operator_settings(net, OptimWrapper(sgd)))
        super_layers of CoCConv (1): weight decay 0.05
    """
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    groups = {id(p): (g, w.optimizer) for w in wrappers for g in w.optimizer.param_groups for p in g['params']}
    found: dict[tuple, list[tuple[float | None, float]]] = {}
    for parameter, fact, operator in operator_parameters(model).values():
        if id(parameter) in groups:
            group, optimizer = groups[id(parameter)]
            usual = optimizer.defaults
            # A scheduler changes `lr`, and keeps what it was at the start.
            lr, usual_lr = group.get('initial_lr', group.get('lr')), usual.get('lr')
            factor = round(lr / usual_lr, 6) if lr is not None and usual_lr else 1.0
            key = (fact, config_name(operator), usual.get('weight_decay'))
            found.setdefault(key, []).append((group.get('weight_decay'), factor))
    settings = []
    for (fact, operator, usual_decay), values in sorted(found.items(), key=lambda item: item[0][:2]):
        decays, factors = zip(*values)
        decay = (min(decays), max(decays)) if usual_decay is not None and None not in decays else None
        factor = (min(factors), max(factors))
        settings.append(OperatorSetting(fact, operator, len(values), decay, usual_decay, factor))
    return settings


def _range(ends: tuple[float, float]) -> str:
    return f'{ends[0]:g}' if ends[0] == ends[1] else f'{ends[0]:g} to {ends[1]:g}'


def _winning_key(keys: Mapping[str, Any], name: str) -> str | None:
    """Return the key that mmengine applies to a parameter: the longest one in its name, of equal ones the first."""
    return next((key for key in sorted(sorted(keys), key=len, reverse=True) if key in name), None)


def _without_facts(rules: dict[str, Any], found: Mapping[str, OperatorParameter], model: nn.Module) -> dict[str, Any]:
    """Return the rules without the keys that only repeat what the operators' classes say.

    Where such a key reaches parameters of other layers too (``gamma``: those of a layer scale), these keep its rule.
    """
    keys = rules.get('custom_keys')
    if not isinstance(keys, dict):
        return rules
    facts = {parameter.fact for parameter in found.values() if parameter.fact in parameter.operator.no_decay}
    repeated = {key for key in facts & set(keys) if dict(keys[key]) == {'decay_mult': 0}}
    others = {
        name: keys[key]
        for name, _ in model.named_parameters()
        if name not in found and (key := _winning_key(keys, name)) in repeated
    }
    return {**rules, 'custom_keys': ConfigDict({k: v for k, v in keys.items() if k not in repeated} | others)}


def regroup(optimizer: Optimizer, changes: Mapping[int, tuple[str, dict[str, Any]]]) -> list[str]:
    """Change the settings of parameters; a group whose parameters differ afterwards is divided.

    Args:
        optimizer: optimizer with one or more groups, changed in place.
        changes: name and new settings of a parameter, by its identity; ``lr_mult`` multiplies the learning rate.

    Returns:
        The names of the parameters whose settings have changed.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2); optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        >>> regroup(optimizer, {id(layer.bias): ('bias', {'lr_mult': 0.5})}), [g['lr'] for g in optimizer.param_groups]
        (['bias'], [1.0, 0.5])
    """
    changed = []
    for group in list(optimizer.param_groups):
        parts: dict[tuple, list[int]] = {}
        for index, parameter in enumerate(group['params']):
            name, change = changes.get(id(parameter), ('', {}))
            settings = _settings(group, change)
            changed += [name] * bool(settings)
            parts.setdefault(tuple(settings.items()), []).append(index)
        rest = {key: copy.deepcopy(value) for key, value in group.items() if key not in LISTS}
        lists = {
            settings: {key: [group[key][index] for index in members] for key in LISTS if key in group}
            for settings, members in parts.items()
        }
        # Unchanged parameters stay in the group.
        for number, settings in enumerate(sorted(parts, key=bool)):
            if number == 0:
                group.update({**lists[settings], **dict(settings)})
            else:
                optimizer.add_param_group({**copy.deepcopy(rest), **lists[settings], **dict(settings)})
    return changed


def _settings(group: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a parameter with this change has, and its group has not."""
    settings = {key: value for key, value in change.items() if key != 'lr_mult'}
    if 'lr_mult' in change and group.get('lr') is not None:
        settings['lr'] = group['lr'] * change['lr_mult']
    return {key: value for key, value in settings.items() if key in group and group[key] != value}
