"""``mmkerv.ResNet``: the ResNet of mmdetection, mmsegmentation or mmpretrain with operators where they are wanted."""

from typing import Any

from mmkerv.models.hosts import find_host, variant
from mmkerv.registry import MODELS


@MODELS.register_module()
class ResNet:
    """ResNet of the host library, with ``conv_cfg`` placed by ``where``.

    Args:
        *args: the host's arguments.
        conv_cfg: operator, such as ``dict(type='CoCConv')``; ``None`` keeps the network plain.
        where: which convolutions, see :class:`mmkerv.models.placement.Where`; by default all but 1x1.
        host: ``'mmdet'``, ``'mmseg'`` or ``'mmpretrain'``; by default the current default scope.
        **kwargs: the host's arguments.

    Raises:
        ValueError: if no host is known, or ``where`` selects nothing.
        TypeError: for an unknown argument.

    Returns an instance of a subclass of the host's class; the keys of its state dict are the host's.

    Example:
        >>> net = ResNet(18, host='mmdet', conv_cfg=dict(type='CoCConv'), where=dict(stages=(4,)))  # doctest: +SKIP
    """

    def __new__(cls, *args: Any, host: str | None = None, **kwargs: Any):
        """Build the host's network and convert it."""
        return variant('ResNet', find_host('ResNet', host))(*args, **kwargs)
