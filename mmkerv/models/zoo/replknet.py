"""``mmkerv.RepLKNet``: mmpretrain's RepLKNet with the arguments that its own class accepts and ignores."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmkerv import env
from mmkerv.errors import ArgumentError
from mmkerv.models.converted import apply_conv_cfg
from mmkerv.models.placement import Where
from mmkerv.models.zoo import stage_arguments
from mmkerv.ops.core.arguments import boolean, integer
from mmkerv.ops.core.initialisation import plain_convolutions
from mmkerv.registry import MODELS

UPSTREAM = 'mmpretrain.models.backbones.replknet'
# Name of the class in this module, for pickle.
QUALIFIED = 'RepLKNet_mmpretrain'


@MODELS.register_module()
class RepLKNet:
    """mmpretrain's RepLKNet, of depthwise kernels up to 31x31, whose settings take effect.

    mmpretrain's class accepts ``conv_cfg``, ``norm_cfg``, ``strides``, ``dilations`` and
    ``norm_intermediate_features``, ignores the first four, and puts a norm at every output whatever the last one says,
    so the released checkpoints of detectors do not fit it. It takes part in the merging of branches as upstream's does
    (``switch_to_deploy``, ``--upstream-deploy`` of the fold tool).

    Args:
        arch: ``'31B'``, ``'31L'``, ``'XL'``, or a dict as in mmpretrain.
        conv_cfg: operator, such as ``dict(type='DCLSConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, by default all that the operator takes, see
            :class:`mmkerv.models.placement.Where`.
        norm_cfg: a batch norm: ``dict(type='BN')``, ``'SyncBN'`` and their like, since the branches merge with it.
        strides: of the end of the stem, and of the layers before stages 2 to 4; the default (2, 2, 2, 2) gives outputs
            of stride 4 to 32.
        dilations: must be 1: a dilated branch would not merge.
        norm_intermediate_features: put a norm behind every output; by default only if the last stage is the only
            output, which is the final norm of a classifier. The released detectors of ``'31B'`` and ``'31L'`` have
            none, those of ``'XL'`` one for each output.
        **kwargs: mmpretrain's other arguments: ``in_channels``, ``ffn_ratio``, ``out_indices``, ``frozen_stages`` (the
            layers before and between frozen stages do not learn either; 0 freezes the stem alone), ``act_cfg``,
            ``with_cp``, ``drop_path_rate``, ``small_kernel_merged``, ``norm_eval``, ``init_cfg``.

    Raises:
        InstallationError: without mmpretrain.
        ValueError: if a value is invalid, or ``where`` selects nothing.

    Returns an instance of a subclass of mmpretrain's class. The keys of its state dict are mmpretrain's, which are the
    released ones; the final ``norm`` of released classifiers becomes ``stages.3.norm``.

    Source: Ding et al., "Scaling Up Your Kernels to 31x31", CVPR 2022.

    Example:
        >>> arch = dict(large_kernel_sizes=[7] * 4, layers=[1] * 4, channels=[8] * 4, small_kernel=5, dw_ratio=1)
        >>> RepLKNet(arch, out_indices=(0, 1, 2, 3)).stages[0].norm  # doctest: +SKIP
        Identity()
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> nn.Module:
        """Build the network."""
        env.require('mmpretrain', compiled_ops=False)
        return _network()(*args, **kwargs)


@cache
def _network() -> type[nn.Module]:
    """Return the subclass of mmpretrain's RepLKNet."""
    base = import_module(UPSTREAM).RepLKNet

    class Network(base):
        def __init__(
            self,
            arch: str | dict,
            *args: Any,
            conv_cfg: dict | None = None,
            where: Where | dict | None = None,
            norm_cfg: dict | None = None,
            strides: Sequence[int] = (2, 2, 2, 2),
            dilations: Sequence[int] = (1, 1, 1, 1),
            norm_intermediate_features: bool | None = None,
            small_kernel_merged: bool = False,
            **kwargs: Any,
        ):
            norm_cfg = {'type': 'BN'} if norm_cfg is None else norm_cfg
            strides, dilations = tuple(strides), tuple(dilations)
            super().__init__(arch, *args, small_kernel_merged=small_kernel_merged, norm_cfg=norm_cfg, **kwargs)
            self.conv_cfg, self.strides, self.dilations = conv_cfg, strides, dilations
            if any(dilation != 1 for dilation in dilations):
                raise ArgumentError(
                    f'dilations must be 1, since a dilated branch would not merge, got {dilations}; use strides for '
                    'larger maps'
                )
            _set_strides(self, strides)
            _set_output_norms(self, norm_intermediate_features)
            if norm_cfg != {'type': 'BN'}:
                _set_norms(self, norm_cfg)
            apply_conv_cfg(self, conv_cfg, where)
            stage_arguments.frozen_stages(self.frozen_stages, len(self.stages))
            # Upstream freezes in train() alone, which a training calls after the network was wrapped for several
            # processes: these would wait for gradients of the frozen parameters.
            self._freeze_stages()

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            if self.with_cp and self.frozen_stages == 0 and self.training and torch.is_grad_enabled():
                # Upstream's recomputation gives a stage no gradients if its input needs none, as behind a frozen stem.
                x = x.detach().requires_grad_()
            return super().forward(x)

        def _freeze_stages(self) -> None:
            super()._freeze_stages()
            # Upstream lets the layers between two frozen stages learn.
            for transition in self.transitions[: max(self.frozen_stages - 1, 0)]:
                transition.eval().requires_grad_(False)

        def init_weights(self) -> None:
            with plain_convolutions(self):
                super().init_weights()

        def train(self, mode: bool = True) -> nn.Module:
            # Upstream's returns None.
            super().train(mode)
            return self

        def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
            last = len(self.stages) - 1
            if not isinstance(self.stages[last].norm, nn.Identity):
                for key in [key for key in state_dict if key.startswith(f'{prefix}norm.')]:
                    state_dict[f'{prefix}stages.{last}.{key.removeprefix(prefix)}'] = state_dict.pop(key)

        def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
            self.read_published(state_dict, prefix)
            super()._load_from_state_dict(state_dict, prefix, *args)

    Network.__name__, Network.__qualname__, Network.__module__ = 'RepLKNet', QUALIFIED, __name__
    Network.__doc__ = RepLKNet.__doc__
    return Network


def __getattr__(name: str) -> type[nn.Module]:
    if name == QUALIFIED:
        return _network()
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _set_strides(network: nn.Module, strides: tuple[int, ...]) -> None:
    places = [network.stem[-1], *(transition[-1] for transition in network.transitions)]
    if len(strides) != len(places):
        raise ArgumentError(f'strides must have one number for each of {len(places)} stages, got {strides}')
    for place, stride in zip(places, strides):
        place.conv.stride = (integer(stride, 'strides', 1),) * 2


def _set_output_norms(network: nn.Module, wanted: bool | None) -> None:
    """Remove the norms behind the outputs that upstream adds to each, unless they are wanted."""
    outputs, last = tuple(network.out_indices), len(network.stages) - 1
    if wanted is None:
        wanted = outputs == (last,)
    network.norm_intermediate_features = boolean(wanted, 'norm_intermediate_features')
    if not wanted:
        for stage in network.stages:
            stage.norm = nn.Identity()


def _set_norms(network: nn.Module, norm_cfg: dict) -> None:
    """Replace every batch norm by the one of ``norm_cfg``."""
    build = import_module('mmcv.cnn').build_norm_layer
    if not isinstance(build(norm_cfg, 1)[1], _BatchNorm):
        raise ArgumentError(f'norm_cfg must be a batch norm, with which the branches of RepLKNet merge, got {norm_cfg}')
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, build(norm_cfg, child.num_features)[1])
