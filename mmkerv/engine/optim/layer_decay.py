"""Layer-wise learning rates: the nearer a layer is to the image, the smaller its learning rate."""

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mmkerv.engine.optim.operator_rules import OperatorRulesConstructor, regroup
from mmkerv.errors import ConfigError
from mmkerv.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmkerv.utils import log, unwrapped

RATE = 'layer_decay_rate'


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(OperatorRulesConstructor):
    r"""Optimizer constructor with layer-wise learning rates, for every backbone with ``get_layer_depth``.

    The learning rate of a parameter is multiplied by :math:`r^{n - 1 - d}`, with r the ``layer_decay_rate`` and (d, n)
    what ``backbone.get_layer_depth`` returns: the number of the parameter's layer, from 0, and that of all layers.
    Parameters outside the backbone keep theirs. :class:`mmkerv.models.UniRepLKNet`,
    :class:`mmkerv.models.TimmBackbone` and backbones of mmpretrain (ConvNeXt, Swin and others) have that method.

    Everything else is as in :class:`OperatorRulesConstructor`: the other rules of the config, and those of the
    operators, whose factors apply in addition. mmdetection's and mmsegmentation's own constructors know a few networks
    by name and refuse all others.

    Args:
        optim_wrapper_cfg: see mmengine's ``DefaultOptimWrapperConstructor``.
        paramwise_cfg: likewise, with ``layer_decay_rate``, in (0, 1], and the keys of that class.

    Raises:
        ConfigError: if ``layer_decay_rate`` is missing or not in (0, 1], or the model has no backbone with
            ``get_layer_depth``.

    Source: the published rates of UniRepLKNet for detection are 0.8 (T) and 0.7 (XL), with AdamW and 1e-4.

    Example:
        >>> from mmengine.optim import build_optim_wrapper
        >>> from mmkerv.models import UniRepLKNet
        >>> model = nn.ModuleDict({'backbone': UniRepLKNet('A')})
        >>> cfg = dict(constructor='mmkerv.LayerDecayConstructor', optimizer=dict(type='AdamW', lr=1e-4))
        >>> wrapper = build_optim_wrapper(model, {**cfg, 'paramwise_cfg': dict(layer_decay_rate=0.8)})
        >>> round(min(group['lr'] for group in wrapper.param_groups) / 0.8**13, 8)
        0.0001
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.rate = self.rules.pop(RATE, None) if isinstance(self.rules, dict) else None
        if isinstance(self.rate, bool) or not isinstance(self.rate, (int, float)) or not 0 < self.rate <= 1:
            raise ConfigError(f'optim_wrapper.paramwise_cfg.{RATE} must be a number in (0, 1], got {self.rate!r}')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper for a network.

        Example:
            >>> from mmkerv.models import UniRepLKNet
            >>> cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
            >>> build = LayerDecayConstructor(cfg, dict(layer_decay_rate=0.8))
            >>> len(build(nn.ModuleDict({'backbone': UniRepLKNet('A')})).param_groups)
            7
        """
        bare = unwrapped(model)
        layers = _layers(bare)
        if not self.rules and 'ZeroRedundancyOptimizer' in str(self.optim_wrapper_cfg.get('optimizer')):
            # The groups of this optimizer cannot be divided later; any rule gives each parameter a group of its own.
            self.rules = {RATE: self.rate}
        wrapper = super().__call__(model)
        factors = {name: self.rate ** (count - 1 - layer) for name, (layer, count) in layers.items()}
        parameters = dict(bare.named_parameters())
        changes = {id(parameters[name]): (name, {'lr_mult': factor}) for name, factor in factors.items()}
        for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            regroup(each.optimizer, changes)
        sizes = Counter(layer for layer, _ in layers.values())
        listed = ', '.join(
            f'{layer}: x{self.rate ** (count - 1 - layer):.3g} ({sizes[layer]})'
            for layer, count in sorted(set(layers.values()))
        )
        log(f'mmkerv: {RATE}={self.rate}, factor of the learning rate by layer (parameters): {listed}; others: x1')
        return wrapper


def _numbers_layers(module: nn.Module) -> bool:
    # mmpretrain's classifiers have a method of this name too, without the prefix; it asks their backbone.
    method = getattr(module, 'get_layer_depth', None)
    return callable(method) and 'prefix' in inspect.signature(method).parameters


def _layers(model: nn.Module) -> Mapping[str, tuple[int, int]]:
    """Return the layer and the number of layers of each parameter of the backbones, by name."""
    found: dict[str, tuple[int, int]] = {}
    inside: list[str] = []
    for prefix, module in model.named_modules():
        dot = f'{prefix}.' if prefix else ''
        if not _numbers_layers(module) or any(dot.startswith(outer) for outer in inside):
            continue
        inside.append(dot)
        for name, _ in module.named_parameters():
            found.setdefault(f'{dot}{name}', tuple(module.get_layer_depth(f'{dot}{name}', dot)))
    if not inside:
        backbone = type(getattr(model, 'backbone', model)).__name__
        raise ConfigError(
            f'mmkerv.LayerDecayConstructor: {backbone} has no get_layer_depth, which numbers its layers; use a '
            'backbone that has it, such as mmkerv.UniRepLKNet, mmkerv.TimmBackbone or one of mmpretrain, or '
            f'another constructor without {RATE}'
        )
    shared = dict(model.named_parameters())
    return {name: layer for name, layer in found.items() if name in shared}
