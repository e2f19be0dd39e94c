"""Backbones of mmdetection, mmsegmentation and mmpretrain with the arguments ``conv_cfg`` and ``where``."""

from typing import Any

from torch import nn

from mmkerv.models.upstream_backbones import FAMILIES, find_library, variant
from mmkerv.registry import MODELS

DOC = """{family} of an upstream library, converted to the operator ``conv_cfg``.

    Args:
        *args: upstream's arguments.
        conv_cfg: operator, such as ``dict(type='CoCConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, by default all that the operator takes, see
            :class:`mmkerv.models.placement.Where`.
        host: library, ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``; by default the current default scope, or mmpretrain
            if that library has no {family}.
        **kwargs: upstream's arguments.

    Raises:
        ValueError: if neither ``host`` nor the default scope names a library, or ``where`` selects nothing.
        TypeError: for an unknown argument.

    Returns an instance of a subclass of upstream's class; the keys of its state dict are upstream's, and its operators
    are initialised as upstream initialises plain convolutions.

    Example:
        >>> net = {family}(host='mmpretrain', conv_cfg=dict(type='CoCConv'))  # doctest: +SKIP
    """


def _family(family: str) -> type:
    def build(cls: type, *args: Any, host: str | None = None, **kwargs: Any) -> nn.Module:
        return variant(family, find_library(family, host))(*args, **kwargs)

    def built_class(part: dict) -> type:
        return variant(family, find_library(family, part.get('host')))

    # What checks the keys of a config asks for the class that they are arguments of.
    members = {'__new__': build, 'built_class': staticmethod(built_class), '__doc__': DOC.format(family=family)}
    return type(family, (), {**members, '__module__': __name__})


ResNet, ResNetV1c, ResNetV1d, HRNet, ShuffleNetV2, MobileNetV2, MobileNetV3 = (
    MODELS.register_module(name=family, module=_family(family)) for family in FAMILIES
)
