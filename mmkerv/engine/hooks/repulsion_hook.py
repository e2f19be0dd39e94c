"""Hook that pushes the taps of DCLS apart."""

import logging

import torch
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn

from mmkerv.engine.hooks.kernel_regularizer_hook import KernelRegularizerHook
from mmkerv.errors import ArgumentError
from mmkerv.models.placement import Where, selected
from mmkerv.ops.core.arguments import boolean, integer
from mmkerv.ops.dcls import DCLSConv2d
from mmkerv.registry import HOOKS
from mmkerv.utils import log


@HOOKS.register_module()
class RepulsionHook(KernelRegularizerHook):
    r"""Push the taps of ``DCLSConv`` apart: :math:`\lambda (\frac{1}{L} \sum_l R_l)^2` over the L layers.

    :math:`R = \frac{2}{n (n - 1) O I} \sum_{o, i} \sum_{j < k} \max(0, 1 - |p_{oij} - p_{oik}|_2)` for the positions p
    (2, O, I, n) of a layer: 0 if no two taps are nearer than 1, and 1 if all sit at one place. The loss is
    ``loss_rep``. Layers with frozen positions are left out, and positions that layers share are computed once.

    Args:
        weight: lambda, >= 0. The authors have 1.
        begin: number of epochs (or iterations) without the loss at the start of training. The authors have 20 of 300
            epochs.
        by_epoch: whether ``begin`` counts epochs.
        where: which layers, see :class:`mmkerv.models.placement.Where`; by default all.

    Raises:
        ValueError: for a value out of range; at the start of training if there is no such layer, or ``begin`` counts
            epochs in a run that counts iterations.
        TypeError: for an unknown key of ``where``.

    Source: Dilated Convolution with Learnable Spacings, ICLR 2023.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.RepulsionHook', begin=20)]
    """

    name = 'loss_rep'

    def __init__(self, weight: float = 1.0, begin: int = 20, by_epoch: bool = True, where: dict | None = None):
        super().__init__(weight)
        self.begin = integer(begin, 'begin', 0)
        self.by_epoch = boolean(by_epoch, 'by_epoch')
        self.where = Where.of(where)

    def before_train(self, runner: Runner) -> None:
        """Find the layers, and compare ``begin`` with the length of the run.

        Raises:
            ValueError: see the class.
        """
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ArgumentError(
                f'RepulsionHook: begin={self.begin} counts epochs, but this run counts iterations; write '
                'by_epoch=False and begin as a number of iterations'
            )
        length, unit = (runner.max_epochs, 'epochs') if self.by_epoch else (runner.max_iters, 'iterations')
        if self.begin >= length:
            log(
                f'mmkerv: RepulsionHook has no effect: begin={self.begin}, and the run has {length} {unit}; '
                'lower begin',
                logging.WARNING,
            )
        super().before_train(runner)

    def active(self, runner: Runner) -> bool:
        """Return whether ``begin`` has passed."""
        return (runner.epoch if self.by_epoch else runner.iter) >= self.begin

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the chosen layers whose positions learn."""
        chosen = selected(model, self.where, (DCLSConv2d,))
        return {name: m for name, m in chosen.items() if m.positions.requires_grad and m.positions.shape[-1] > 1}

    def loss(self, layer: nn.Module) -> Tensor:
        """Return the repulsion of one layer."""
        return repulsion(layer.positions.float())

    def total(self, layers: list[nn.Module]) -> Tensor:
        """Return the square of the mean over the layers."""
        each: dict[nn.Parameter, Tensor] = {}
        for layer in layers:
            if layer.positions not in each:
                each[layer.positions] = self.loss(layer)
        return self.weight * torch.stack([each[layer.positions] for layer in layers]).mean().square()


def repulsion(positions: Tensor) -> Tensor:
    r"""Compute the mean of :math:`\max(0, 1 - |p_j - p_k|_2)` over all pairs of taps and all pairs of channels.

    Args:
        positions: p, (2, O, I, n), n >= 2.

    Returns:
        A scalar from 0 to 1.

    Example:
        >>> repulsion(torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.5, 0.0]]).view(2, 1, 1, 3))
        tensor(0.1667)
    """
    first, second = torch.triu_indices(positions.shape[-1], positions.shape[-1], 1, device=positions.device)
    distance = torch.linalg.vector_norm(positions[..., first] - positions[..., second], dim=0)
    return (1 - distance).relu().mean()
