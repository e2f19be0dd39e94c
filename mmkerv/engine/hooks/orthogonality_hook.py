"""Hook that adds the orthogonality of convolutions to the losses of any model."""

import logging

import torch
from torch import Tensor, nn

from mmkerv.engine.hooks.kernel_regularizer_hook import KernelRegularizerHook
from mmkerv.models.placement import Where, selected
from mmkerv.ops.coc.module import CoCConv2d
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.losses import orthogonality_loss
from mmkerv.registry import HOOKS
from mmkerv.utils import log


@HOOKS.register_module()
class OrthogonalityHook(KernelRegularizerHook):
    r"""Orthogonal convolution: :math:`\lambda \sum_l |\mathrm{selfconv}(K_l) - I|^2` over the chosen convolutions.

    The loss is ``loss_orth``. It acts on the kernel that convolves: the associated kernel of a ``CoCConv``, ``weight``
    of a plain convolution or a kervolution. Frozen layers are left out.

    It logs a warning for ``CoCConv`` with ``super_bias=True``: a super bias moves every tap of four filters at once,
    the loss is steep in it, and training diverges (ResNet-18, SGD with learning rate 0.1: at weights from 1e-4 on;
    without the bias 0.01 is stable).

    Args:
        weight: lambda, >= 0. The paper has 0.01; its authors' README has 0.5, for a norm that is not squared.
        where: which convolutions, see :class:`mmkerv.models.placement.Where`; by default those of the stages, 1x1 ones
            included, without the stem, as the authors do. Layers outside stages (necks, heads) are included.

    Raises:
        ValueError: for a negative weight; at the start of training if nothing is selected.
        TypeError: for an unknown key of ``where``.

    Source: Orthogonal Convolutional Neural Networks, CVPR 2020.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.01)]
    """

    name = 'loss_orth'

    def __init__(self, weight: float, where: dict | None = None):
        super().__init__(weight)
        self.where = None if where is None else Where.of(where)

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the chosen convolutions that learn."""
        chosen = selected(model, self.where, (nn.Conv2d, Conv2d))
        layers = {name: m for name, m in chosen.items() if any(p.requires_grad for p in m.parameters())}
        biased = [name for name, m in layers.items() if isinstance(m, CoCConv2d) and m.options.super_bias]
        if biased:
            log(
                f'mmkerv: OrthogonalityHook: {len(biased)} CoCConv such as {biased[0]} have a super bias, in which the '
                'loss is so steep that training may diverge; leave super_bias=True out of conv_cfg',
                logging.WARNING,
            )
        return layers

    def loss(self, layer: nn.Module) -> Tensor:
        """Return the squared distance of one convolution from orthogonality."""
        kernel = layer.kernel() if isinstance(layer, GeneratedKernel) else layer.weight
        return orthogonality_loss(kernel.to(torch.float32), layer.stride, layer.dilation, layer.groups)
