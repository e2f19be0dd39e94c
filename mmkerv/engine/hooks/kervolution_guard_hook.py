"""Hook that names the kervolution whose response overflowed or died, which the loss does not tell."""

import logging
import math

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkerv.errors import ArgumentError, DeadKernelError, KervolutionOverflowError
from mmkerv.ops.core.arguments import integer, one_of
from mmkerv.ops.kerv import Kervolution
from mmkerv.registry import HOOKS
from mmkerv.utils import layer_input, log, unwrapped

ADVICE = (
    'Replace fewer layers (where=dict(stages=()) is the stem alone), take a lower degree or learning rate, normalise '
    'what reaches the layer (pixels in [0, 1], a norm), or clip the gradients (optim_wrapper.clip_grad)'
)

DYING = ('gaussian', 'laplacian')
# The gradient of a response below it changes no parameter.
DEAD = 1e-20
# A response is lost in the rounding of response + bias if it is smaller than this part of the bias.
ROUNDING = 1e-3
DEAD_ADVICE = (
    "Take gamma='auto' or a smaller gamma, normalise what reaches the layer (a norm before it), or replace layers of "
    'fewer channels (where=dict(stages=()) is the stem alone)'
)


@HOOKS.register_module()
class KervolutionGuardHook(Hook):
    r"""Stop or warn when the response of a kervolution, :math:`(s + c)^n`, is infinite or NaN, or dead.

    The message names the layer (the first in forward order), the iteration and the largest |s| of the batch. The
    checks read each response and wait for the device once an iteration, after the step: a run that is stopped has not
    written a checkpoint of that iteration.

    A filter of a gaussian or laplacian kernel is dead if :math:`\kappa(x_i, w) < 10^{-20}` for every patch of the
    batch: its gradient is as small, and it cannot recover. The action is taken if all filters of a layer are dead; if
    only some are, one warning is logged.

    Args:
        action: ``'stop'`` raises, ``'warn'`` logs a warning, once for each layer.
        interval: check every n-th iteration, >= 1.

    Raises:
        ValueError: for another action or an interval < 1; at the start of training if the model has no kervolution.
        KervolutionOverflowError, DeadKernelError: in training, with ``action='stop'``.

    Source: Kervolutional Neural Networks, CVPR 2019, section 6, "Training": too much non-linearity is unstable.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.KervolutionGuardHook', action='warn', interval=10)]
    """

    # Before hooks that log, evaluate or save the results of the overflow.
    priority = 'VERY_HIGH'

    def __init__(self, action: str = 'stop', interval: int = 1):
        self.action = one_of(action, 'action', ('stop', 'warn'))
        self.interval = integer(interval, 'interval', 1)
        self._layers: dict[str, Kervolution] = {}
        self._finite: dict[str, Tensor] = {}
        self._alive: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._warned: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Find the kervolutions.

        Raises:
            ValueError: if the model has none.
        """
        model = unwrapped(runner.model)
        self._layers = {name: m for name, m in model.named_modules() if isinstance(m, Kervolution)}
        if not self._layers:
            raise ArgumentError(
                'KervolutionGuardHook found no KervConv in the model; take it out of custom_hooks, or add conv_cfg'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Start watching if this iteration is checked."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        self._finite.clear()
        self._alive.clear()
        for name, layer in self._layers.items():
            layer.watched, layer.largest_product = True, None
            self._handles.append(layer.register_forward_hook(self._recorder(name), with_kwargs=True))

    def _recorder(self, name: str):
        def record(layer: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            finite = torch.isfinite(output.detach()).all()
            self._finite[name] = finite & self._finite[name] if name in self._finite else finite
            if layer.kernel_name in DYING and output.numel():
                alive = _largest_response(layer, layer_input(args, kwargs), output.detach()) >= DEAD
                self._alive[name] = alive | self._alive[name] if name in self._alive else alive

        return record

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Check the responses of the iteration."""
        self._stop_watching()
        if not self._finite:
            return
        names = list(self._finite)
        finite = torch.stack([self._finite[name] for name in names]).tolist()
        bad = [name for name, good in zip(names, finite) if not good]
        self._finite.clear()
        if bad and self.action == 'stop':
            raise KervolutionOverflowError(self._message(bad[0], runner.iter))
        for name in bad:
            self._warn(name, self._message(name, runner.iter))
        for name, alive in self._alive.items():
            if alive.all() or name in bad:
                continue
            dead, filters = int((~alive).sum()), len(alive)
            message = self._dead_message(name, dead, filters, runner.iter)
            if dead == filters and self.action == 'stop':
                raise DeadKernelError(message)
            self._warn(f'{name}, {"all" if dead == filters else "some"} dead', message)

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log(message, logging.WARNING)

    def after_train(self, runner: Runner) -> None:
        """Stop watching the layers."""
        self._stop_watching()

    def _stop_watching(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for layer in self._layers.values():
            layer.watched = False

    def _message(self, name: str, iteration: int) -> str:
        layer = self._layers[name]
        largest = layer.largest_product
        product = '' if largest is None else f', largest |s| {largest.item():.3g}'
        if largest is not None and not math.isfinite(largest.item()):
            product += ' (its input or weight was not finite already: look at the layers before it)'
        return (
            f'KervolutionGuardHook: the response of {name!r} ({type(layer).__name__}, kernel={layer.kernel_name!r}) '
            f'is infinite or NaN at iteration {iteration + 1}{product}. {ADVICE}.'
        )

    def _dead_message(self, name: str, dead: int, filters: int, iteration: int) -> str:
        layer = self._layers[name]
        return (
            f'KervolutionGuardHook: {dead} of {filters} filters of {name!r} ({type(layer).__name__}, '
            f'kernel={layer.kernel_name!r}, gamma={float(torch.as_tensor(layer.gamma).mean()):.3g}) are dead at '
            f'iteration {iteration + 1}: all their responses are below {DEAD:g}, and so is their gradient. '
            f'{DEAD_ADVICE}.'
        )


def _largest_response(layer: Kervolution, x: Tensor, output: Tensor) -> Tensor:
    """Return the largest response of each filter, (O,), without the bias."""
    axes = tuple(axis for axis in range(output.dim()) if axis != output.dim() - layer.dims - 1)
    largest = output.amax(axes) if layer.bias is None else (output - _along(layer.bias, layer)).amax(axes)
    if layer.bias is None or bool((largest.abs() > layer.bias.abs() * ROUNDING).all()):
        return largest
    # Subtracting the bias would leave only rounding errors: compute the response without it.
    bias = layer.bias
    layer._parameters['bias'] = None
    try:
        with torch.no_grad():
            return layer.forward(x).amax(axes)
    finally:
        layer._parameters['bias'] = bias


def _along(bias: Tensor, layer: Kervolution) -> Tensor:
    return bias.detach().view(-1, *(1,) * layer.dims)
