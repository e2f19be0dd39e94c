"""Hook that finds where in a backbone the features stop being finite, in training and in evaluation."""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkerv.errors import ConfigError, NonFiniteFeaturesError
from mmkerv.models.stages import find_stages
from mmkerv.ops.core.arguments import one_of
from mmkerv.registry import HOOKS
from mmkerv.utils import log, unwrapped

ADVICE = (
    'float16 ends at 65504: compute in float32 or bfloat16 (optim_wrapper.dtype). If that does not help, look at the '
    'image and at the weights, or train with a lower learning rate'
)


@HOOKS.register_module()
class FiniteFeaturesHook(Hook):
    """Stop or warn when an output of the backbone is NaN or infinite, and name the stage and layer where it begins.

    In training, validation and test. An evaluation gives no other sign of it than missing detections. As long as all is
    finite the hook reads the outputs of the backbone once; only then the backbone computes the batch again, layer by
    layer, and leaves running statistics and random generators as they were. With ``SyncBatchNorm`` in training it names
    the output alone.

    Args:
        action: ``'stop'`` raises, ``'warn'`` logs a warning, once for each layer.

    Raises:
        ValueError: for another action.
        ConfigError: if the model has no backbone.
        NonFiniteFeaturesError: with ``action='stop'``.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.FiniteFeaturesHook')]
    """

    # Before hooks that save the results.
    priority = 'VERY_HIGH'

    def __init__(self, action: str = 'stop'):
        self.action = one_of(action, 'action', ('stop', 'warn'))
        self._handle: RemovableHandle | None = None
        self._warned: set[str] = set()

    def before_run(self, runner: Runner) -> None:
        """Start watching the backbone."""
        model = unwrapped(runner.model)
        backbone = getattr(model, 'backbone', None)
        if not isinstance(backbone, nn.Module):
            raise ConfigError(f'FiniteFeaturesHook watches model.backbone, which {type(model).__name__} does not have')
        self.after_run(runner)
        self._handle = backbone.register_forward_hook(self._check)

    def after_run(self, runner: Runner) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _check(self, backbone: nn.Module, inputs: tuple, output: Any) -> None:
        bad = [number for number, features in enumerate(_tensors(output)) if not _is_finite(features)]
        if not bad:
            return
        message = f'FiniteFeaturesHook: output {bad[0]} of the backbone {type(backbone).__name__} is not finite'
        message += f' for an input of {tuple(inputs[0].shape)}, {_type(inputs[0])}. ' if inputs else '. '
        # Other processes may have found nothing, and would not take part in the statistics of a SyncBatchNorm.
        alone = any(isinstance(m, nn.SyncBatchNorm) and m.training for m in backbone.modules())
        place = None if alone else first_not_finite(backbone, inputs)
        if alone:
            message += (
                'With SyncBatchNorm in training the layer cannot be searched for; evaluate this batch to find it. '
            )
        elif place is None:
            message += 'Computed again it is finite, so the cause is random, such as dropout. '
        else:
            message += f'It begins in {place.layer!r} ({place.description}). '
        if self.action == 'stop':
            raise NonFiniteFeaturesError(message + ADVICE)
        layer = place.layer if place else ''
        if layer not in self._warned:
            self._warned.add(layer)
            log(message + ADVICE, logging.WARNING)


class Place(NamedTuple):
    """Layer in which numbers stop being finite: its name, and its class, stage and largest input in words.

    Example:
        >>> Place('conv', 'Conv2d, in the stem, whose largest input is 3').layer
        'conv'
    """

    layer: str
    description: str


@torch.no_grad()
def first_not_finite(network: nn.Module, inputs: tuple) -> Place | None:
    """Compute ``network(*inputs)`` and return the first layer with an output that is not finite, ``None`` without one.

    Running statistics of batch norms and the state of the random generators are as before afterwards.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.Threshold(0.0, float('nan')))
        >>> first_not_finite(net, (torch.zeros(1, 2),))
        Place(layer='1', description='Threshold, whose largest input is 0')
    """
    found: list[Place] = []
    # The network itself, whose hooks include the caller's, is left out: forward is called directly.
    layers = {module: name for name, module in network.named_modules() if name}
    stages = find_stages(network, layers.values()) or {}

    def record(layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        # A layer is left before the ones around it, so the innermost comes first.
        if found or all(map(_is_finite, _tensors(output))):
            return
        name, stage = layers[layer], stages.get(layers[layer])
        where = {None: '', 0: ', in the stem'}.get(stage, f', in stage {stage}')
        largest = max((float(x.abs().max()) for x in _tensors([*args, *kwargs.values()]) if x.numel()), default=0.0)
        found.append(Place(name, f'{type(layer).__name__}{where}, whose largest input is {largest:.3g}'))

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with torch.random.fork_rng({x.device for x in _tensors(inputs) if x.is_cuda}):
            network.forward(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    return found[0] if found else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _is_finite(value: Tensor) -> bool:
    return bool(value.detach().isfinite().all())


def _type(value: Tensor) -> str:
    autocast = torch.is_autocast_enabled() if value.is_cuda else torch.is_autocast_cpu_enabled()
    return f'{str(value.dtype).removeprefix("torch.")}{" under autocast" if autocast else ""}'
