"""``mmkerv.ResNetCifar``: the thin ResNets for 32x32 images, based on mmpretrain's ``ResNet_CIFAR``."""

from functools import cache
from typing import Any

from torch import nn

from mmkerv.models.upstream_backbones import variant
from mmkerv.ops.core.arguments import one_of
from mmkerv.registry import MODELS

DEPTHS = (20, 32, 44, 56, 110)


@MODELS.register_module()
class ResNetCifar:
    """ResNet for CIFAR: a 3x3 stem of 16 channels and three stages of n blocks with 16, 32 and 64; depth = 6n + 2.

    mmpretrain's ``ResNet_CIFAR`` has this stem, but the depths and widths of the networks for ImageNet. Everything else
    is mmpretrain's: where the size changes, the shortcuts are 1x1 convolutions (option B), which add 2.7 k parameters;
    on CIFAR the paper uses option A, a shortcut without parameters. (N, 3, H, W) -> ((N, 64, H/4, W/4),).

    Args:
        depth: 20, 32, 44, 56 or 110.
        conv_cfg: operator, such as ``dict(type='KervConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, by default all that the operator takes, see
            :class:`mmkerv.models.placement.Where`.
        **kwargs: mmpretrain's arguments.

    Raises:
        ValueError: for another depth, or if ``where`` selects nothing.
        TypeError: for an unknown argument.

    Source: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.

    Example:
        >>> net = ResNetCifar(32, conv_cfg=dict(type='KervConv'), where=dict(stages=()))  # doctest: +SKIP
    """

    def __new__(cls, depth: int, *, conv_cfg: dict | None = None, where: Any = None, **kwargs: Any) -> nn.Module:
        """Build the network and convert it."""
        one_of(depth, 'depth', DEPTHS)
        shape = {'stem_channels': 16, 'base_channels': 16, 'num_stages': 3, 'strides': (1, 2, 2)}
        shape |= {'dilations': (1, 1, 1), 'out_indices': (2,)}
        return network()(depth, conv_cfg=conv_cfg, where=where, **{**shape, **kwargs})


@cache
def network() -> type[nn.Module]:
    """Return mmpretrain's class with these depths; created on first use, because mmpretrain takes seconds to import.

    Example:
        >>> network().arch_settings[32][1]  # doctest: +SKIP
        (5, 5, 5)
    """
    base = variant('ResNet_CIFAR', 'mmpretrain')
    block = base.arch_settings[18][0]

    class Network(base):
        arch_settings = {depth: (block, ((depth - 2) // 6,) * 3) for depth in DEPTHS}

    # The name under which pickle finds the class: see __getattr__ below.
    Network.__name__, Network.__qualname__, Network.__module__ = 'ResNetCifar', 'ResNetCifar_mmpretrain', __name__
    Network.__doc__ = ResNetCifar.__doc__
    return Network


def __getattr__(name: str) -> type[nn.Module]:
    if name == 'ResNetCifar_mmpretrain':
        return network()
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
