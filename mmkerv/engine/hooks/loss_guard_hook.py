"""Hook that stops training when a loss explodes, and names the layer."""

import logging
import math
from numbers import Real
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkerv.errors import LossExplosionError
from mmkerv.ops.core.arguments import integer, one_of, real
from mmkerv.registry import HOOKS
from mmkerv.utils import log, unwrapped

ADVICE = (
    'Lower optim_wrapper.optimizer.lr, warm it up (param_scheduler), clip the gradients (optim_wrapper.clip_grad), or '
    'look at the data and annotations of this iteration; with --amp, train once without it'
)


@HOOKS.register_module()
class LossGuardHook(Hook):
    r"""Stop or warn when a loss L is not finite or :math:`L > threshold`, and name the layer.

    The layer is the first in forward order whose output is not finite, else the one with the largest :math:`|y|`. A run
    that is stopped has not written a checkpoint of that iteration.

    Args:
        threshold: largest loss that is accepted, > 0.
        action: ``'stop'`` raises, ``'warn'`` logs a warning, at most once in 100 iterations.
        interval: check the layers' outputs, one pass over each, in every n-th iteration, >= 1; losses are checked in
            every one.

    Raises:
        ValueError: for a threshold <= 0, another action or an interval < 1.
        LossExplosionError: in training, with ``action='stop'``.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.LossGuardHook', threshold=1e4, interval=10)]
    """

    # Before hooks that log, evaluate or save the results of the explosion.
    priority = 'VERY_HIGH'

    def __init__(self, threshold: float = 1e5, action: str = 'stop', interval: int = 1):
        self.threshold = real(threshold, 'threshold', 0, above=True)
        self.action = one_of(action, 'action', ('stop', 'warn'))
        self.interval = integer(interval, 'interval', 1)
        self._largest: dict[str, Tensor] = {}
        self._seen = 0
        self._handles: list[RemovableHandle] = []
        self._warned: int | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start watching if this iteration is checked."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        self._largest.clear()
        self._seen = runner.iter + 1
        model = unwrapped(runner.model)
        for name, layer in model.named_modules():
            if next(layer.parameters(recurse=False), None) is not None:
                self._handles.append(layer.register_forward_hook(self._recorder(name)))

    def _recorder(self, name: str):
        def record(layer: nn.Module, inputs: tuple, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                # The maximum of a tensor that holds a NaN is NaN.
                largest = output.detach().abs().amax()
                self._largest[name] = largest.maximum(self._largest[name]) if name in self._largest else largest

        return record

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Check the losses."""
        self._stop_watching()
        losses = {name: float(v) for name, v in (outputs or {}).items() if 'loss' in name and _is_number(v)}
        bad = {name: value for name, value in losses.items() if not -math.inf < value <= self.threshold}
        if not bad:
            return
        if self.action == 'stop':
            raise LossExplosionError(self._message(bad, runner.iter + 1))
        if self._warned is None or runner.iter - self._warned >= 100:
            self._warned = runner.iter
            log(self._message(bad, runner.iter + 1), logging.WARNING)

    def after_train(self, runner: Runner) -> None:
        """Stop watching the layers."""
        self._stop_watching()

    def _stop_watching(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _message(self, bad: dict[str, float], iteration: int) -> str:
        losses = ', '.join(f'{name} = {value:.3g}' for name, value in bad.items())
        message = f'LossGuardHook: {losses} at iteration {iteration} (threshold {self.threshold:g}). '
        largest = {name: value.item() for name, value in self._largest.items()}
        not_finite = [name for name, value in largest.items() if not math.isfinite(value)]
        when = '' if self._seen == iteration else f' at iteration {self._seen}, the last that was checked'
        if not_finite:
            message += f'The first layer whose output is not finite is {not_finite[0]!r}{when}. '
        elif largest:
            name = max(largest, key=largest.__getitem__)
            message += f'All layers gave finite outputs{when}, the largest {name!r} with |y| = {largest[name]:.3g}. '
        return message + f'{ADVICE}.'


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, Real)
