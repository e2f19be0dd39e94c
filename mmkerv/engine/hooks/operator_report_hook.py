"""Hook that says at the start of a run what became of the convolutions, and how the operators start."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkerv.engine.checkpoint.load_observer import observe_loading
from mmkerv.models.inventory import Inventory, config_name, inventory
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.starting_point import starting_point
from mmkerv.registry import HOOKS
from mmkerv.utils import bare_network, log


@HOOKS.register_module()
class OperatorReportHook(Hook):
    """Log which convolutions are operators, which are not and why, and in training how the operators start.

    The lines come before the first iteration of a training and the first image of a test, whatever road led to the
    operators. A warning names operators that start with random kernels although weights around them are loaded
    (``init_cfg=dict(type='Pretrained', ...)``, ``load_from``).

    Example:
        >>> custom_hooks = [dict(type='mmkerv.OperatorReportHook')]
    """

    # After the hooks that change the network at the start of training.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._loaded: set[Tensor] = set()
        self._watch = ExitStack()

    def before_run(self, runner: Runner) -> None:
        """Start watching initialisation, ``load_from`` and resuming."""
        self._watch.close()
        self._loaded.clear()
        self._watch.enter_context(observe_loading(bare_network(runner.model), self._note))

    def _note(self, key: str, own: Tensor, value: Any) -> None:
        if own.shape == getattr(value, 'shape', None):
            self._loaded.add(own)

    def before_train(self, runner: Runner) -> None:
        """Report on a network that is about to be trained."""
        self._watch.close()
        model = bare_network(runner.model)
        found = inventory(model)
        log(f'mmkerv: {found}')
        for line in starting_lines(found, self._loaded):
            log(line)
        if warning := random_among_loaded(model, found.operators, self._loaded):
            log(warning, logging.WARNING)
        # Parameters may be replaced in training, and are not to be kept then.
        self._loaded.clear()

    def before_test(self, runner: Runner) -> None:
        """Report on a network that is about to be tested."""
        self._watch.close()
        log(f'mmkerv: {inventory(bare_network(runner.model))}')

    def before_val(self, runner: Runner) -> None:
        """Stop watching: without training there is nothing to compare."""
        self._watch.close()


def starting_lines(found: Inventory, loaded: set[Tensor]) -> list[str]:
    """Return a line on how the operators start, none for a network without operators.

    Args:
        found: inventory of the network.
        loaded: parameters that a checkpoint has given.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> starting_lines(inventory(nn.Sequential(CoCConv2d(3, 8, 3))), set())
        ['mmkerv: CoCConv starts as the plain convolution']
    """
    parts = []
    for kind, operators in found.by_operator().items():
        fresh = {name: operator for name, operator in operators.items() if not has_own(operator, loaded)}
        if len(fresh) < len(operators):
            parts.append(f'{len(operators) - len(fresh)} {kind} start from the checkpoint')
        if fresh:
            ways = found._replace(operators=fresh).starts()[kind]
            parts.append(f'{kind} starts {ways}' if len(fresh) == len(operators) else f'{len(fresh)} start {ways}')
    return [f'mmkerv: {"; ".join(parts)}'] if parts else []


def has_own(operator: ConvNd, loaded: set[Tensor]) -> bool:
    """Return whether a checkpoint has given the parameters that a plain convolution does not have.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> conv = CoCConv2d(3, 8, 3)
        >>> has_own(conv, set()), has_own(conv, set(conv.parameters()))
        (False, True)
    """
    own = operator.own_parameters()
    return bool(own) and any(parameter in loaded for parameter in own.values())


def random_among_loaded(model: nn.Module, operators: Mapping[str, ConvNd], loaded: set[Tensor]) -> str | None:
    """Return a warning if operators without a weight start at random in parts of a network that are loaded.

    Args:
        model: bare network.
        operators: its operators by name.
        loaded: parameters that a checkpoint has given.

    Example:
        >>> from mmkerv.ops import CKConv2d
        >>> model = nn.Sequential(CKConv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> print(random_among_loaded(model, {'0': model[0]}, set()))
        None
    """
    pretrained = {name.partition('.')[0] for name, parameter in model.named_parameters() if parameter in loaded}
    random = {
        name: operator
        for name, operator in operators.items()
        if name.partition('.')[0] in pretrained
        and getattr(operator, 'weight', None) is None
        and not has_own(operator, loaded)
    }
    if not random:
        return None
    kinds = ', '.join(dict.fromkeys(map(config_name, random.values())))
    parts = ', '.join(dict.fromkeys(name.partition('.')[0] for name in random))
    name, operator = next(iter(random.items()))
    return (
        f'mmkerv: {len(random)} {kinds} such as {name} start {starting_point(operator)} among pretrained weights of '
        f'{parts}, so the network does not compute what the checkpoint did: leave them out with where, train longer, '
        'pretrain with them, or take an operator that starts as the plain convolution'
    )
