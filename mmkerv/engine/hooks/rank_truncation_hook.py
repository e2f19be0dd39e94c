"""Hook that lowers the ranks of low-rank convolutions while they are trained."""

from collections import Counter
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.optim import Optimizer

from mmkerv.engine.checkpoint.match import follow_ranks
from mmkerv.errors import ArgumentError, ConfigError
from mmkerv.ops import LowRankConv2d
from mmkerv.ops.core.arguments import boolean, integer, real
from mmkerv.registry import HOOKS
from mmkerv.utils import log, unwrapped


@HOOKS.register_module()
class RankTruncationHook(Hook):
    r"""Truncate the ranks of every ``LowRankConv`` to the smallest that keep its kernel, from time to time in training.

    After every ``interval``-th epoch the ranks of a layer become the smallest for which
    :math:`|K' - K| \le \epsilon |K|`, with the composed kernels K before and K' after; see
    :meth:`mmkerv.ops.LowRankConv2d.truncate`. Ranks never grow, and the errors of several truncations may add up. The
    log has a line for each truncated layer.

    The kernels of a truncated layer are new, so their state in the optimizer (momentum, second moments) is reset,
    which the log says; all other state, and the settings of all parameter groups, stay. An average of the weights by
    ``EMAHook`` goes on in the new basis. A gradient that was accumulated for the next step is dropped.

    Checkpoints hold the ranks that the layers have: resuming, testing and folding build the network of the config,
    whose layers take the ranks of the weights they load.

    Args:
        tolerance: largest relative error :math:`\epsilon` of a kernel, in [0, 1); 0 removes what is redundant.
        interval: number of epochs, or of iterations, between truncations, >= 1.
        by_epoch: count epochs, or iterations.

    Raises:
        ValueError: if an argument is out of range.
        ConfigError: at the start of training, if the network has no ``LowRankConv`` that learns, if it is trained on
            several devices, or if the state of the optimizer does not belong to single parameters (``LBFGS``).

    Source: a substitute for Zangrando et al., "Rank-adaptive spectral pruning of convolutional layers during training",
    which trains bases and core separately; here all are trained together, and only the truncation is theirs.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.RankTruncationHook', tolerance=0.05, interval=2)]
    """

    def __init__(self, tolerance: float, interval: int = 1, by_epoch: bool = True):
        self.tolerance = real(tolerance, 'tolerance', 0.0)
        if tolerance >= 1:
            raise ArgumentError(f'tolerance must be < 1, since an error of 1 is a kernel of zeros, got {tolerance}')
        self.interval = integer(interval, 'interval', 1)
        self.by_epoch = boolean(by_epoch, 'by_epoch')

    def before_train(self, runner: Runner) -> None:
        """Check the network and the optimizer.

        Raises:
            ConfigError: naming what does not go with the hook, and what to do.
        """
        if is_model_wrapper(runner.model):
            raise ConfigError(
                f'RankTruncationHook changes the shapes of parameters, which {type(runner.model).__name__} cannot '
                'follow; train on one device, or remove the hook'
            )
        layers, left = _layers(unwrapped(runner.model))
        if not layers:
            reason = f'; {left[0]} shares or computes its kernels, or is frozen' if left else ''
            raise ConfigError(
                f'RankTruncationHook: the network has no LowRankConv that learns{reason}. Give it '
                "conv_cfg=dict(type='mmkerv.LowRankConv', ...), or remove the hook"
            )
        if left:
            log(
                f'mmkerv: RankTruncationHook leaves {len(left)} layers as they are, which share or compute their '
                f'kernels or are frozen: {", ".join(left)}'
            )
        for optimizer in _optimizers(runner):
            if isinstance(optimizer, torch.optim.LBFGS):
                raise ConfigError(
                    'RankTruncationHook: the state of LBFGS belongs to all parameters together and cannot follow other '
                    'shapes; use another optimizer, or remove the hook'
                )
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ConfigError(
                'RankTruncationHook counts epochs, which an iteration-based run does not have; set by_epoch=False and '
                f'an interval in iterations, such as 1000, got interval={self.interval}'
            )
        follow_ranks(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Truncate after every ``interval``-th epoch."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._truncate(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Truncate after every ``interval``-th iteration."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._truncate(runner)

    def _truncate(self, runner: Runner) -> None:
        averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
        layers, _ = _layers(unwrapped(runner.model))
        before = _weights(layers)
        reset: Counter[str] = Counter()
        truncated = 0
        for name, layer in layers.items():
            ranks, weights = layer.ranks, _weights({name: layer})
            error = layer.truncate(self.tolerance, *(average.get_submodule(name) for average in averages))
            if layer.ranks == ranks:
                continue
            truncated += 1
            for optimizer in _optimizers(runner):
                reset.update(_drop_state(optimizer, layer))
            log(
                f'mmkerv: {name}: ranks {ranks} -> {layer.ranks}, error {error:.3g}, weights {weights} -> '
                f'{_weights({name: layer})}'
            )
        follow_ranks(runner)
        if not truncated:
            log(
                f'mmkerv: no rank of {len(layers)} low-rank layers can be lowered within an error of {self.tolerance:g}'
            )
            return
        line = f'mmkerv: truncated {truncated} of {len(layers)} low-rank layers, {before} -> {_weights(layers)} weights'
        if reset:
            line += f'; the state of the optimizer for their kernels is reset ({", ".join(sorted(reset))})'
        log(line)


def _layers(model: nn.Module) -> tuple[dict[str, LowRankConv2d], list[str]]:
    """Return the layers whose kernels are Parameters of their own that learn, and the names of the others."""
    holders = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    found, left = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, LowRankConv2d):
            kernels = [layer._parameters.get(kernel) for kernel in layer.kernel_names()]
            if all(kernel is not None and kernel.requires_grad and holders[id(kernel)] == 1 for kernel in kernels):
                found[name] = layer
            else:
                left.append(name)
    return found, left


def _weights(layers: dict[str, LowRankConv2d]) -> int:
    return sum(getattr(layer, kernel).numel() for layer in layers.values() for kernel in layer.kernel_names())


def _optimizers(runner: Runner) -> list[Optimizer]:
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [each.optimizer for each in wrappers]


def _drop_state(optimizer: Optimizer, layer: LowRankConv2d) -> list[str]:
    """Drop the state of a layer's kernels; return the names of what there was."""
    names: list[str] = []
    for kernel in layer.kernel_names():
        state = optimizer.state.pop(getattr(layer, kernel), {})
        names += [name for name, value in state.items() if value is not None]
    return list(dict.fromkeys(names))
