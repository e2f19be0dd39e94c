"""``mmkerv.Converted``: any network of an OpenMMLab library with its convolutions replaced by an operator."""

from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkerv.errors import ArgumentTypeError
from mmkerv.models.placement import Where, convert
from mmkerv.registry import MODELS


@MODELS.register_module()
class Converted:
    """Backbone (or neck, or head) of the current default scope, converted to the operator ``conv_cfg``.

    For networks that have no argument ``conv_cfg`` of their own, such as mmpretrain's DenseNet.

    Args:
        backbone: config of the network, with a ``type`` of the default scope.
        conv_cfg: operator, such as ``dict(type='KervConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, see :class:`mmkerv.models.placement.Where`; by default all but 1x1.

    Raises:
        TypeError: if ``backbone`` is not the config of a network.
        ValueError: if ``where`` selects nothing.

    Returns the network that ``backbone`` builds, so the keys of its state dict are upstream's.

    Example:
        >>> densenet, first = dict(type='DenseNet', arch='121'), dict(stages=())
        >>> net = Converted(densenet, conv_cfg=dict(type='KervConv'), where=first)  # doctest: +SKIP
    """

    def __new__(cls, backbone: dict, conv_cfg: dict | None = None, where: Where | dict | None = None) -> nn.Module:
        """Build the network and convert it."""
        if not isinstance(backbone, dict) or 'type' not in backbone:
            raise ArgumentTypeError(
                f"backbone must be a dict with a 'type', such as dict(type='DenseNet', arch='121'), got {backbone!r}"
            )
        return apply_conv_cfg(ROOT_MODELS.build(backbone), conv_cfg, where)


def apply_conv_cfg(model: nn.Module, conv_cfg: dict | None, where: Where | dict | None) -> nn.Module:
    """Convert ``model`` in place, unless ``conv_cfg`` is ``None``; ``where`` is checked in either case.

    Raises:
        ValueError: if ``where`` selects nothing.
        TypeError: for an unknown key of ``where``.

    Example:
        >>> apply_conv_cfg(nn.Sequential(nn.Conv2d(3, 8, 3)), dict(type='CoCConv'), None)[0].kernel_size
        (3, 3)
    """
    rule = Where.of(where)
    return model if conv_cfg is None else convert(model, conv_cfg, rule)
