"""``mmkerv.TimmBackbone``: any network of timm that returns features, as a backbone of the three libraries."""

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmkerv.distributions import importable
from mmkerv.errors import ArgumentError, InstallationError
from mmkerv.install_advice import Problem, pip
from mmkerv.models.converted import apply_conv_cfg
from mmkerv.models.placement import Where
from mmkerv.models.stages import find_stages
from mmkerv.models.zoo import stage_arguments
from mmkerv.ops import DeployReport, switch_to_deploy
from mmkerv.ops.core.arguments import boolean, integer
from mmkerv.ops.core.geometry import memory_format
from mmkerv.registry import MODELS

# Prefixes under which the parameters of the same network are known: ours, which is also that of mmpretrain's
# TIMMBackbone, and that of timm's wrapper around transformers.
OWN, GETTER = 'timm_model.', 'model.'


@MODELS.register_module()
class TimmBackbone(stage_arguments.StagedBackbone):
    """Network of timm as a backbone, (N, 3, H, W) -> maps (N, ``channels[i]``, H / ``strides[i]``, W / ``strides[i]``).

    The keys of its state dict are ``timm_model.`` and those of timm's network with ``features_only=True``, as of
    mmpretrain's ``TIMMBackbone``. Checkpoints of the whole classifier load as well, with and without this prefix, with
    ``stages.0`` or ``stages_0``; the layers that compute no feature (the head, stages behind the last output) are left
    out.

    Args:
        model_name: name in timm, such as ``'inception_next_tiny'``, ``'fasternet_s'``, ``'mixnet_m'`` or
            ``'convnext_tiny'``.
        out_indices: numbers of the features to return, from 0: one integer or several; by default all that timm offers.
            ``channels`` and ``strides`` of the backbone tell which these are: networks with a feature of stride 2
            (MixNet, ResNet) have five, others four.
        frozen_stages: number of stages that do not learn, with the layers before them, counted as in ``where.stages``;
            0 freezes the stem alone, -1 nothing.
        norm_eval: keep all batch norms in evaluation mode.
        with_cp: recompute the stages in backward, by timm's ``set_grad_checkpointing``.
        conv_cfg: operator, such as ``dict(type='CoCConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, by default all that the operator takes, see
            :class:`mmkerv.models.placement.Where`.
        init_cfg: as in every mmengine module; ``dict(type='Pretrained', checkpoint=...)`` loads timm's weights. Without
            it the network starts as timm initialises it.
        pretrained: let timm download its weights.
        **kwargs: further arguments of ``timm.create_model``, such as ``drop_path_rate=0.1``.

    Raises:
        InstallationError: without timm.
        ValueError: if timm has no network of that name, it returns no features, or a value is invalid.

    Example:
        >>> net = TimmBackbone('resnet10t', out_indices=(1, 2, 3, 4))  # doctest: +SKIP
        >>> net.channels, net.strides  # doctest: +SKIP
        ((64, 128, 256, 512), (4, 8, 16, 32))
    """

    def __init__(
        self,
        model_name: str,
        out_indices: int | Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        conv_cfg: dict | None = None,
        where: Where | dict | None = None,
        init_cfg: dict | list | None = None,
        pretrained: bool = False,
        **kwargs: Any,
    ):
        super().__init__(init_cfg)
        timm = _timm()
        self.model_name, self.norm_eval = _known(model_name, timm), boolean(norm_eval, 'norm_eval')
        self.frozen_stages = integer(frozen_stages, 'frozen_stages', -1)
        self._timm_arguments = dict(kwargs)
        chosen = {} if out_indices is None else {'out_indices': _indices(out_indices)}
        try:
            self.timm_model = timm.create_model(
                model_name, pretrained=boolean(pretrained, 'pretrained'), features_only=True, **chosen, **kwargs
            )
        except (RuntimeError, AssertionError, IndexError) as error:
            raise ArgumentError(
                f'timm cannot build {model_name!r} as a backbone with out_indices={out_indices!r}: {error}; '
                'choose outputs it has, or a network that timm builds with features_only=True'
            ) from error
        if pretrained or kwargs.get('checkpoint_path'):
            # For mmengine's init_weights and our placement: some of timm's networks have an init_weights of their own,
            # which would draw new weights.
            self.timm_model.is_init = self.timm_model._is_init = True
        info = self.timm_model.feature_info
        self.channels, self.strides = tuple(info.channels()), tuple(info.reduction())
        self._is_channels_last = str(getattr(self.timm_model, 'output_fmt', '')).endswith('NHWC')
        if boolean(with_cp, 'with_cp'):
            self._recompute()
        # An operator may have no parameter of the name that the plain convolution has.
        self._plain_names = set(self.timm_model.state_dict())
        apply_conv_cfg(self.timm_model, conv_cfg, where)
        self._stages = self._numbered_stages()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the chosen features of ``x`` (N, 3, H, W)."""
        features = self.timm_model(x)
        if self._is_channels_last:
            features = [y.permute(0, 3, 1, 2) for y in features]
        # Some networks, such as ConvNeXt, return channels-last maps, which mmcv's roi_align would misread.
        return tuple(y.contiguous(memory_format=memory_format(x)) for y in features)

    def switch_to_deploy(self, split: str = 'keep') -> DeployReport:
        """Fold the operators; mmpretrain's tools call a method of this name."""
        return switch_to_deploy(self, split)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the layer of a parameter and the number of layers, for layer-wise learning rates.

        The layers are those of timm's ``param_groups_layer_decay``: mostly one for each block, 0 for the stem, and the
        last one for the head, which the backbone does not have.

        Args:
            param_name: name of the parameter.
            prefix: prefix of the backbone's parameters in it.

        Example:
            >>> TimmBackbone('resnet10t').get_layer_depth('timm_model.conv1.0.weight')  # doctest: +SKIP
            (0, 7)
        """
        name = param_name.removeprefix(prefix).removeprefix(OWN)
        layers, count = self._layers
        # Parameters that an operator adds belong to the layer of its kernel.
        while name and name not in layers:
            name = name.rpartition('.')[0]
        if not name:
            raise ArgumentError(
                f'{self.model_name} has no parameter {param_name!r}; use the names of named_parameters()'
            )
        return layers[name], count

    @cached_property
    def _layers(self) -> tuple[dict[str, int], int]:
        """Return the layer of each parameter and module by our name, and the number of layers."""
        network = self._classifier
        matcher = network.group_matcher(coarse=False)
        group = import_module('timm.models').group_parameters
        layers: dict[str, int] = {}
        last = 0
        for released, layer in group(network, matcher, reverse=True).items():
            layer, last = int(layer), max(last, int(layer))
            name = self._own_name(released)
            while name:
                layers[name] = min(layer, layers.get(name, layer))
                name = name.rpartition('.')[0]
        return layers, last + 1

    @property
    def _classifier(self) -> nn.Module:
        """Return the whole network without memory for its parameters."""
        with torch.device('meta'):
            return _timm().create_model(self.model_name, pretrained=False, **self._timm_arguments)

    def _own_name(self, name: str) -> str:
        """Return the name in ``timm_model`` of a parameter in timm's whole network, ``name`` itself if it has none."""
        for candidate in (name, _flat(name), GETTER + name):
            if candidate in self._plain_names:
                return candidate
        return name

    def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace the names of timm's whole network by ours, in place, without what computes no feature.

        Args:
            state_dict: weights of a network.
            prefix: of the backbone's keys.

        Example:
            >>> state = {'layer1.0.conv1.weight': torch.ones(64, 64, 3, 3)}
            >>> TimmBackbone('resnet10t').read_published(state, ''); list(state)  # doctest: +SKIP
            ['timm_model.layer1.0.conv1.weight']
        """
        found = {key.removeprefix(prefix).removeprefix(OWN): key for key in state_dict if key.startswith(prefix)}
        names = {name: self._own_name(name) for name in found}
        if any(own not in self._plain_names for own in names.values()):
            released = [name for name in self._classifier.state_dict() if self._own_name(name) not in self._plain_names]
            unused = {*released, *map(_flat, released)}
        else:
            unused = set()
        for name, key in found.items():
            value = state_dict.pop(key)
            if name not in unused:
                state_dict[f'{prefix}{OWN}{names[name]}'] = value

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self.read_published(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _recompute(self) -> None:
        for module in (self.timm_model, getattr(self.timm_model, 'model', None)):
            if hasattr(module, 'set_grad_checkpointing'):
                module.set_grad_checkpointing(True)
                return
        raise ArgumentError(f'timm cannot recompute {self.model_name!r} in backward; leave with_cp out')

    def _numbered_stages(self) -> dict[str, int]:
        """Return the number of the stage of each module that belongs to one, 0 for the stem."""
        if self.frozen_stages < 0:
            return {}
        found = find_stages(self, [name for name, _ in self.named_modules() if name]) or {}
        numbers = {name: number for name, number in found.items() if number is not None}
        last = max(numbers.values(), default=None)
        if last is None:
            raise ArgumentError(f'{self.model_name} has no stages that could be frozen; leave frozen_stages out')
        if self.frozen_stages > last:
            raise ArgumentError(
                f'frozen_stages must be <= {last}, the stages of {self.model_name}, got {self.frozen_stages}'
            )
        return numbers

    def _freeze(self) -> None:
        for name, module in self.named_modules():
            if self._stages.get(name, self.frozen_stages + 1) <= self.frozen_stages:
                module.training = False
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)


def _flat(name: str) -> str:
    """Return the name that timm gives a parameter when it takes a network apart for its features."""
    return re.sub(r'^([^.]+)\.([^.]+)\.', r'\1_\2.', name)


def _timm() -> ModuleType:
    """Return the library, which is imported only when a network of it is asked for."""
    if not importable('timm'):
        problem = Problem('mmkerv.TimmBackbone needs timm, which is not installed', pip('install', 'mmkerv[timm]'))
        raise InstallationError(str(problem))
    return import_module('timm')


def _indices(out_indices: int | Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of the features as a tuple."""
    several = isinstance(out_indices, Iterable) and not isinstance(out_indices, (str, bytes))
    indices = tuple(out_indices) if several else (out_indices,)
    if not indices or any(not isinstance(index, int) or isinstance(index, bool) for index in indices):
        raise ArgumentError(
            f'out_indices must be one integer or several, got {out_indices!r}; leave it out for all features'
        )
    return indices


def _known(name: str, timm: ModuleType) -> str:
    """Return the name of a network if timm has it."""
    if isinstance(name, str) and timm.is_model(name):
        return name
    near = difflib.get_close_matches(str(name), timm.list_models(), n=3)
    advice = f'did you mean {" or ".join(map(repr, near))}?' if near else 'timm.list_models() lists all'
    raise ArgumentError(f'model_name must be a network of timm, got {name!r}; {advice}')
