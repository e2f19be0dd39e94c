"""Variants of upstream backbones: the same class with the arguments ``conv_cfg`` and ``where``.

A variant is a subclass of upstream's class, created on first use, so that its names, state dict and behaviour are
upstream's; it builds the plain network and converts it.
"""

import logging
from functools import cache
from typing import Any

from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch import nn

from mmkerv.distributions import BUILT_ON
from mmkerv.errors import ArgumentError
from mmkerv.models.placement import Where, replace_convolutions
from mmkerv.ops import DeployReport, switch_to_deploy
from mmkerv.ops.core.initialisation import plain_convolutions
from mmkerv.utils import log

FAMILIES = ('ResNet', 'ResNetV1c', 'ResNetV1d', 'HRNet', 'ShuffleNetV2', 'MobileNetV2', 'MobileNetV3')
LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')
FALLBACK = 'mmpretrain'


def find_library(family: str, host: str | None = None) -> str:
    """Return the library that a backbone comes from.

    In the scope of mmrotate, whose detectors have mmdetection's backbones, it is mmdetection. A library without that
    family of backbones falls back to mmpretrain, with a warning in the log.

    Args:
        family: name of the class, such as ``'ResNet'``.
        host: library; by default the current default scope.

    Raises:
        ValueError: if there is neither ``host`` nor a default scope, or no library has the family.

    Example:
        >>> find_library('ResNet', host='mmpretrain')  # doctest: +SKIP
        'mmpretrain'
    """
    scope = DefaultScope.get_current_instance()
    name = host or (scope.scope_name if scope else None)
    if host is None:
        name = BUILT_ON.get(name, name)
    if name is None or (host is None and name not in LIBRARIES):
        raise ArgumentError(
            f'mmkerv.{family} needs to know whose {family} it is: the default scope is {name!r}; '
            f"set default_scope in the config, or host='mmdet' (one of {', '.join(LIBRARIES)}) in the backbone"
        )
    if name not in LIBRARIES:
        raise ArgumentError(f'host must be one of {", ".join(LIBRARIES)}, got {name!r}')
    if ROOT_MODELS.get(f'{name}.{family}') is not None:
        return name
    if name != FALLBACK and ROOT_MODELS.get(f'{FALLBACK}.{family}') is not None:
        log(f'mmkerv: {name} has no {family}; using {FALLBACK}.{family}', logging.WARNING)
        return FALLBACK
    raise ArgumentError(f'neither {name} nor {FALLBACK} has a backbone {family}; set host to a library that has it')


@cache
def variant(family: str, host: str) -> type[nn.Module]:
    """Return the subclass of an upstream backbone with the arguments ``conv_cfg`` and ``where``.

    Args:
        family: name of the class, such as ``'ResNet'``.
        host: library.

    Example:
        >>> variant('ResNet', 'mmdet').__mro__[1].__module__  # doctest: +SKIP
        'mmdet.models.backbones.resnet'
    """
    base = ROOT_MODELS.get(f'{host}.{family}')

    class Variant(base):
        def __init__(self, *args: Any, conv_cfg: dict | None = None, where: Where | dict | None = None, **kwargs: Any):
            super().__init__(*args, **kwargs)
            rule = Where.of(where)
            if conv_cfg is not None:
                replace_convolutions(self, conv_cfg, rule, set())

        def init_weights(self) -> None:
            with plain_convolutions(self):
                super().init_weights()

        def switch_to_deploy(self, split: str = 'keep') -> DeployReport:
            """Fold the operators; mmpretrain's and timm's tools call a method of this name."""
            return switch_to_deploy(self, split)

    # The name under which pickle finds the class: see __getattr__ below.
    Variant.__name__, Variant.__qualname__, Variant.__module__ = family, f'{family}_{host}', __name__
    Variant.__doc__ = (
        f"{host}'s {family} with the convolutions that where selects replaced by conv_cfg.\n\n{base.__doc__ or ''}"
    )
    return Variant


def __getattr__(name: str) -> type[nn.Module]:
    family, _, host = name.rpartition('_')
    if family and host in LIBRARIES:
        return variant(family, host)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
