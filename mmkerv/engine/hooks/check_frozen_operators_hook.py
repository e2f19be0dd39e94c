"""Hook that refuses to train with operators whose own parameters are frozen at random values."""

import logging
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkerv.engine.checkpoint.load_observer import observe_loading
from mmkerv.errors import ConfigError
from mmkerv.models.placement import initialised
from mmkerv.ops.core.adapter import adapted_layers, adapter_of
from mmkerv.ops.core.generated import GeneratedKernel, relative_change
from mmkerv.registry import HOOKS
from mmkerv.utils import log, unwrapped

TOLERANCE = 1e-6


@HOOKS.register_module()
class CheckFrozenOperatorsHook(Hook):
    r"""Refuse to train with operators that are frozen with random parameters, and warn of other frozen operators.

    Upstream backbones freeze their stem and first stages (``frozen_stages``), and an operator's own parameters with
    them. At the start of training, after initialisation and loading, every operator with a generated kernel whose own
    parameters are frozen must have them from a checkpoint, or be the identity, :math:`|K - W| \le 10^{-6} |W|`. One
    warning names the frozen operators that pass.

    Frozen weights under orthogonal adapters that a config adds must come from a checkpoint as well.

    Raises:
        ConfigError: at the start of training, naming the operators and what to change.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.CheckFrozenOperatorsHook')]
    """

    # EMAHook copies the model in `before_run`; its copy must not be watched.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._filled: set[Tensor] = set()
        self._has_run = False
        self._watch = ExitStack()

    def before_run(self, runner: Runner) -> None:
        """Start watching initialisation, ``load_from`` and resuming."""
        self._watch.close()
        model = unwrapped(runner.model)
        # A second training loads nothing again, and what the first was given is still there.
        if not self._has_run:
            self._filled, self._has_run = _built_with_values(model), True
        self._watch.enter_context(observe_loading(model, self._fill))

    def _fill(self, key: str, own: Tensor, value: Any) -> None:
        if own.shape == getattr(value, 'shape', None):
            self._filled.add(own)

    def before_val(self, runner: Runner) -> None:
        """Stop watching: without training nothing is checked."""
        self._watch.close()

    before_test = before_val

    def before_train(self, runner: Runner) -> None:
        """Check the frozen operators.

        Raises:
            ConfigError: if one of them is frozen with random parameters, or an adapter has a frozen random weight.
        """
        self._watch.close()
        # Some backbones freeze their stages in train(), which the training loop calls before its first iteration.
        runner.model.train()
        self._check_adapters(unwrapped(runner.model))
        frozen = {name: op for name, op in _operators(unwrapped(runner.model)).items() if _frozen(op)}
        lacking = {name: missing for name, op in frozen.items() if (missing := self._lacking(op))}
        random = [name for name in lacking if not is_identity(frozen[name])]
        if random:
            advice = 'Train them (frozen_stages=-1 in the backbone), '
            if any(frozen[name].weight is not None for name in random):
                advice += "start them as the identity (conv_cfg.super_init='identity'), "
            raise ConfigError(
                f'{len(random)} operators are frozen at random ({_first(random)}). No checkpoint gave '
                f'{random[0]}.{lacking[random[0]][0]}, and the kernels are not the basic weights: random super '
                f'layers or kernel nets would stay random. {advice}'
                'leave them plain (where=dict(stem=False, stages=...), or --where with --operator), '
                "or give a checkpoint that has them: init_cfg=dict(type='Pretrained', checkpoint=FILE, "
                "prefix='backbone.') in the backbone, or load_from=FILE"
            )
        # Where an adapter learns, the operator is meant to be frozen.
        frozen = {name: op for name, op in frozen.items() if adapter_of(op) is None}
        if frozen:
            unfilled = [name for name, op in frozen.items() if _is_frozen(op.weight) and op.weight not in self._filled]
            message = (
                f'mmkerv: {len(frozen)} operators are frozen, their super layers or kernel nets will not train: '
                f'{_first(list(frozen))}; frozen_stages=-1 in the backbone trains them'
            )
            if unfilled:
                message += f'. And the weights of {len(unfilled)} of them are random: no checkpoint gave them'
            log(message, logging.WARNING)

    def _check_adapters(self, model: nn.Module) -> None:
        adapted = list(adapted_layers(model))
        bases = {
            name: layer.parametrizations.weight.original for name, layer, adapter in adapted if adapter.expects_weight
        }
        random = [name for name, base in bases.items() if _is_frozen(base) and base not in self._filled]
        if random:
            raise ConfigError(
                f'{len(random)} layers with orthogonal adapters have frozen random weights ({_first(random)}): no '
                "checkpoint gave them. Give one, by init_cfg=dict(type='Pretrained', checkpoint=FILE) in the network "
                'or load_from=FILE, or leave these layers out with adapters.where'
            )
        still = [name for name, _, adapter in adapted if not any(p.requires_grad for p in adapter.parameters())]
        if still:
            log(
                f'mmkerv: the orthogonal adapters of {len(still)} layers are frozen and do not learn: {_first(still)}; '
                'frozen_stages=-1 in the backbone trains them',
                logging.WARNING,
            )

    def _lacking(self, operator: GeneratedKernel) -> list[str]:
        return [name for name, parameter in _frozen(operator).items() if parameter not in self._filled]


@torch.no_grad()
def is_identity(operator: GeneratedKernel) -> bool:
    r"""Return whether the kernel is the basic weight, :math:`|K - W| \le 10^{-6} |W|`; without one it is not.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> is_identity(CoCConv2d(3, 8, 3)), is_identity(CoCConv2d(3, 8, 3, super_init='kaiming'))
        (True, False)
    """
    if operator.weight is None:
        return False
    return relative_change(operator.kernel(), operator.weight) <= TOLERANCE


def _built_with_values(model: nn.Module) -> set[Tensor]:
    """Return the parameters that a network has from its constructor, as that of ``TimmBackbone(pretrained=True)``."""
    # What an operator adds is still random there, unless it is a decomposition of the weight.
    random = [op for op in _operators(model).values() if not getattr(op, 'decomposes_weight', False)]
    own = {parameter for operator in random for parameter in operator.own_parameters().values()}
    return {parameter for module in initialised(model) for parameter in module.parameters(recurse=False)} - own


def _operators(model: nn.Module) -> dict[str, GeneratedKernel]:
    return {name: module for name, module in model.named_modules() if isinstance(module, GeneratedKernel)}


def _frozen(operator: GeneratedKernel) -> dict[str, nn.Parameter]:
    """Return the frozen parameters that a plain convolution does not have."""
    return {name: p for name, p in operator.own_parameters().items() if _is_frozen(p)}


def _is_frozen(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and not parameter.requires_grad


def _first(names: list[str]) -> str:
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
