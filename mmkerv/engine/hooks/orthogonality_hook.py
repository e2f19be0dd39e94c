"""Hook that adds the orthogonality of convolutions to the losses of any model."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmkerv.engine.hooks.kernel_regularizer_hook import KernelRegularizerHook
from mmkerv.errors import ArgumentError
from mmkerv.models.placement import Where, selected
from mmkerv.ops.coc.module import CoCConv2d
from mmkerv.ops.core.arguments import integer, one_of
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.losses import (
    MODES,
    group_orthogonality_loss,
    group_orthogonality_minimum,
    orthogonality_loss,
    orthogonality_minimum,
)
from mmkerv.registry import HOOKS
from mmkerv.utils import log

# Value of `groups` that follows the GroupNorm behind each layer.
GROUP_NORM = 'gn'
# Batch norms and instance norms have one base.
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._NormBase)


@HOOKS.register_module()
class OrthogonalityHook(KernelRegularizerHook):
    r"""Orthogonal convolution: :math:`\lambda \sum_l |\mathrm{selfconv}(K_l) - I|^2` over the chosen convolutions.

    With ``shifts='zero'`` it is group orthogonalization: filters are compared at the same position only, and within
    sets of them: of N groups of consecutive filters, those of one group (``mode='inter'``), or the i-th filters of all
    groups (``'intra'``). N = 1 compares all filters. See :func:`mmkerv.ops.losses.group_orthogonality_loss`.

    The loss is ``loss_orth``. It acts on the kernel that convolves: the associated kernel of a ``CoCConv``, ``weight``
    of a plain convolution or a kervolution. Frozen layers are left out, and operators that have neither.

    At the start it logs the layers for which exact orthogonality cannot hold, because there are more filters than
    dimensions, and the least value that the loss has there.

    It logs a warning for ``CoCConv`` with ``super_bias=True``: a super bias moves every tap of four filters at once,
    the loss is steep in it, and training diverges (ResNet-18, SGD with learning rate 0.1: at weights from 1e-4 on;
    without the bias 0.01 is stable).

    Args:
        weight: lambda, >= 0. The paper has 0.01; its authors' README has 0.5, for a norm that is not squared.
        where: which convolutions, see :class:`mmkerv.models.placement.Where`; by default those of the stages, 1x1 ones
            included, without the stem, as the authors do. Layers outside stages (necks, heads) are included.
        shifts: ``'all'`` compares filters at every shift at which they overlap, ``'zero'`` at the same position.
        groups: N, >= 1, for ``shifts='zero'``: the largest divisor up to it of the filters of each channel group is
            used. ``'gn'`` takes the number of groups of the ``GroupNorm`` behind each layer, and leaves out layers
            without one. By default 1.
        mode: ``'inter'`` (default) or ``'intra'``, for ``shifts='zero'``.

    Raises:
        ValueError: for a negative weight, an unknown value, or ``groups`` or ``mode`` with ``shifts='all'``; at the
            start of training if nothing is selected.
        TypeError: for an unknown key of ``where``.

    Source: Orthogonal Convolutional Neural Networks, CVPR 2020; group orthogonalization (GOR), BMVC 2023.

    Example:
        >>> custom_hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.01)]
        >>> custom_hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.01, shifts='zero', groups='gn')]
    """

    name = 'loss_orth'

    def __init__(
        self,
        weight: float,
        where: dict | None = None,
        shifts: str = 'all',
        groups: int | str | None = None,
        mode: str | None = None,
    ):
        super().__init__(weight)
        self.where = None if where is None else Where.of(where)
        self.shifts = one_of(shifts, 'shifts', ('all', 'zero'))
        for name, value in (('groups', groups), ('mode', mode)):
            if value is not None and shifts == 'all':
                raise ArgumentError(
                    f"{name} is for shifts='zero', got {name}={value!r} with shifts='all'; leave it out"
                )
        if groups is not None and groups != GROUP_NORM:
            if isinstance(groups, str):
                raise ArgumentError(f'groups must be an integer >= 1 or {GROUP_NORM!r}, got {groups!r}')
            integer(groups, 'groups', 1)
        self.groups = 1 if groups is None else groups
        self.mode = MODES[0] if mode is None else one_of(mode, 'mode', MODES)
        # Number of groups of filters in each channel group, by layer.
        self._numbers: dict[nn.Module, int] = {}

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the chosen convolutions that learn."""
        chosen = selected(model, self.where, (nn.Conv2d, Conv2d))
        layers = {name: m for name, m in chosen.items() if any(p.requires_grad for p in m.parameters())}
        absent = [name for name, m in layers.items() if not isinstance(m, GeneratedKernel) and m.weight is None]
        self._left_out(absent, 'have neither a kernel nor a basic weight')
        layers = {name: m for name, m in layers.items() if name not in absent}
        if self.shifts == 'zero':
            layers = self._grouped(model, layers)
        biased = [name for name, m in layers.items() if isinstance(m, CoCConv2d) and m.options.super_bias]
        if biased:
            log(
                f'mmkerv: OrthogonalityHook: {len(biased)} CoCConv such as {biased[0]} have a super bias, in which the '
                'loss is so steep that training may diverge; leave super_bias=True out of conv_cfg',
                logging.WARNING,
            )
        self._report_minima(layers)
        return layers

    def _grouped(self, model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
        """Set the number of groups of filters of each layer; return the layers that have one."""
        if self.groups != GROUP_NORM:
            self._numbers = dict.fromkeys(layers.values(), self.groups)
            return layers
        norms = group_norms(model)
        self._left_out([name for name, m in layers.items() if m not in norms], 'have no GroupNorm behind them')
        layers = {name: m for name, m in layers.items() if m in norms}
        # The groups of the norm go through all filters, N through those of one channel group.
        self._numbers = {m: max(1, norms[m].num_groups // m.groups) for m in layers.values()}
        return layers

    def _left_out(self, names: list[str], reason: str) -> None:
        if names:
            log(f'mmkerv: OrthogonalityHook: {len(names)} layers are left out, since they {reason}: {", ".join(names)}')

    def _report_minima(self, layers: dict[str, nn.Module]) -> None:
        minima = {name: least for name, m in layers.items() if (least := self._minimum(m))}
        if minima:
            log(
                f'mmkerv: OrthogonalityHook: exact orthogonality cannot hold in {len(minima)} of {len(layers)} layers, '
                'which have more filters than dimensions; the least distance of each is '
                f'{", ".join(f"{name} {least}" for name, least in minima.items())}; {self.name} is at least '
                f'{self.weight * sum(minima.values()):.4g}'
            )

    @torch.no_grad()
    def _minimum(self, layer: nn.Module) -> int:
        kernel = _kernel(layer)
        sizes = len(kernel), kernel.shape[1] * layer.groups, kernel.shape[2:]
        if self.shifts == 'all':
            return orthogonality_minimum(*sizes, _pair(layer.stride), _pair(layer.dilation), layer.groups)
        return group_orthogonality_minimum(*sizes, layer.groups, self._numbers[layer], self.mode)

    def loss(self, layer: nn.Module) -> Tensor:
        """Return the squared distance of one convolution from orthogonality."""
        kernel = _kernel(layer).to(torch.float32)
        if self.shifts == 'all':
            return orthogonality_loss(kernel, _pair(layer.stride), _pair(layer.dilation), layer.groups)
        return group_orthogonality_loss(kernel, layer.groups, self._numbers[layer], self.mode)


def group_norms(model: nn.Module) -> dict[nn.Module, nn.GroupNorm]:
    """Return the GroupNorm behind each convolution: the next norm after it among the children of its parent.

    The norm must have as many channels as the convolution, and no other convolution or norm may lie between.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> [norm.num_groups for norm in group_norms(model).values()]
        [4]
    """
    found: dict[nn.Module, nn.GroupNorm] = {}
    for parent in model.modules():
        conv: Any = None
        for child in parent.children():
            if isinstance(child, (nn.Conv2d, Conv2d)):
                conv = child
            elif isinstance(child, NORMS):
                if isinstance(child, nn.GroupNorm) and conv is not None and conv.out_channels == child.num_channels:
                    found[conv] = child
                conv = None
    return found


def _kernel(layer: nn.Module) -> Tensor:
    return layer.kernel() if isinstance(layer, GeneratedKernel) else layer.weight
