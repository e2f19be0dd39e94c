"""Hooks that add a loss on kernels to the losses of any model: their base, and the L2 norm of generated kernels."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import real
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.precision import full_precision
from mmkerv.registry import HOOKS
from mmkerv.utils import unwrapped


class KernelRegularizerHook(Hook):
    r"""Base of hooks that add a loss on kernels to what a model returns: :math:`\lambda \sum_l R(K_l)`.

    mmengine's hooks cannot add losses, so this one registers a forward hook on the unwrapped model; the loss is part of
    the dictionary that the model returns in ``mode='loss'``. It is logged, scaled by AMP, accumulated and averaged over
    processes as every other loss is. A subclass implements ``layers`` and ``loss``.

    Args:
        weight: lambda, >= 0.

    Raises:
        ValueError: for a negative weight; at the start of training if the model has no such layer.

    Example:
        >>> KernelL2Hook(weight=1e-4).weight
        0.0001
    """

    # Key of the loss; mmengine sums the values whose key contains 'loss'.
    name: str

    def __init__(self, weight: float):
        self.weight = real(weight, 'weight', 0.0)
        self._handle: RemovableHandle | None = None

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the layers to regularise, by name."""
        raise NotImplementedError(f'{type(self).__name__} must implement layers')

    def loss(self, layer: nn.Module) -> Tensor:
        """Return the loss of one layer; autocast is off."""
        raise NotImplementedError(f'{type(self).__name__} must implement loss')

    def total(self, layers: list[nn.Module]) -> Tensor:
        """Return the loss of all layers; autocast is off."""
        return self.weight * torch.stack([self.loss(layer) for layer in layers]).sum()

    def active(self, runner: Runner) -> bool:
        """Return whether the loss is added in the current iteration."""
        return True

    def before_train(self, runner: Runner) -> None:
        """Find the layers and register the forward hook.

        Raises:
            ValueError: if there are none, or another hook has a loss of this name.
        """
        # mmengine does not call after_train of a training that was interrupted.
        self.after_train(runner)
        model = unwrapped(runner.model)
        layers = list(self.layers(model).values())
        if not layers:
            raise ArgumentError(
                f'{type(self).__name__} found no layer to regularise; remove it from custom_hooks, or add conv_cfg'
            )

        def add(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            mode = kwargs.get('mode', args[2] if len(args) > 2 else 'tensor')
            if mode != 'loss' or not isinstance(output, dict) or not self.active(runner):
                return output
            if self.name in output:
                raise ArgumentError(f'the model has a loss {self.name!r} already; keep one {type(self).__name__}')
            with full_precision(next(module.parameters()).device):
                total = self.total(layers)
            return {**output, self.name: total}

        self._handle = model.register_forward_hook(add, with_kwargs=True)

    def after_train(self, runner: Runner) -> None:
        """Remove the forward hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


@HOOKS.register_module()
class KernelL2Hook(KernelRegularizerHook):
    r"""Decay generated kernels instead of the parameters that generate them: :math:`\lambda \sum_l |K_l|^2`.

    The loss is ``loss_kernel_l2``. Weight decay of a kernel net's parameters would shrink its frequencies, not its
    kernel; leave the optimizer's off for them. The bias of a convolution is not regularised.

    Args:
        weight: lambda, >= 0.

    Raises:
        ValueError: for a negative weight; at the start of training if no layer generates its kernel.

    Source: CKConv, ICLR 2022; its code decays the sampled kernels, not the parameters that generate them.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.KernelL2Hook', weight=1e-4)]
    """

    name = 'loss_kernel_l2'

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the layers whose kernel is generated."""
        return {name: m for name, m in model.named_modules() if isinstance(m, GeneratedKernel)}

    def loss(self, layer: nn.Module) -> Tensor:
        """Return the squared L2 norm of the sampled kernel."""
        return layer._forward_kernel().float().square().sum()
