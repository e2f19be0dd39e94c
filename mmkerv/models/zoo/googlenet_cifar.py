"""``mmkerv.GoogLeNetCifar``: GoogLeNet with a stem for 32x32 images and batch norm."""

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkerv.models.converted import apply_conv_cfg
from mmkerv.models.placement import Where
from mmkerv.registry import MODELS

# Of each module: channels of the 1x1 path, of the reduction and the output of the 3x3 and of the 5x5 path, and of the
# pooled path.
WIDTHS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
STEM_CHANNELS = 192


@MODELS.register_module()
class GoogLeNetCifar(BaseModule):
    """GoogLeNet for CIFAR: a 3x3 stem of stride 1 and nine inception modules in three stages.

    The kervolution paper does not describe its GoogLeNet for CIFAR. Here the modules have the widths of GoogLeNet's
    Table 1, the stem has the 192 channels that the first module expects, every convolution is followed by batch norm,
    and there are no auxiliary classifiers. (N, 3, H, W) -> ((N, 1024, H/4, W/4),).

    Args:
        in_channels: channels of the image.
        conv_cfg: operator, such as ``dict(type='KervConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, by default all that the operator takes, see
            :class:`mmkerv.models.placement.Where`.
        init_cfg: as in every mmengine module; by default He's initialisation.

    Raises:
        ValueError: if ``where`` selects nothing.
        TypeError: for an unknown argument.

    Source: Going Deeper with Convolutions, CVPR 2015, Table 1.

    Example:
        >>> GoogLeNetCifar()(torch.zeros(1, 3, 8, 8))[-1].shape
        torch.Size([1, 1024, 2, 2])
    """

    def __init__(
        self,
        in_channels: int = 3,
        conv_cfg: dict | None = None,
        where: Where | dict | None = None,
        init_cfg: dict | list | None = None,
    ):
        kaiming = {'type': 'Kaiming', 'layer': 'Conv2d'}
        super().__init__(init_cfg or [kaiming, {'type': 'Constant', 'val': 1, 'layer': '_BatchNorm'}])
        self.stem = conv(in_channels, STEM_CHANNELS, 3)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        for widths in WIDTHS:
            modules = []
            for width in widths:
                modules.append(Inception(channels, *width))
                channels = modules[-1].out_channels
            self.stages.append(nn.Sequential(*modules))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        apply_conv_cfg(self, conv_cfg, where)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return the last feature map, in a tuple as mmpretrain's heads expect it.

        Args:
            x: (N, 3, H, W).

        Example:
            >>> len(GoogLeNetCifar()(torch.zeros(1, 3, 8, 8)))
            1
        """
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(self.pool(x) if i else x)
        return (x,)


class Inception(nn.Module):
    """Inception module of four paths: 1x1; 1x1 and 3x3; 1x1 and 5x5; max pool and 1x1. (N, C, H, W) -> (N, O, H, W).

    Args:
        in_channels: channels of the input.
        ones: output channels of the 1x1 path.
        reduce_threes: channels before the 3x3 convolution.
        threes: output channels of the 3x3 convolution.
        reduce_fives: channels before the 5x5 convolution.
        fives: output channels of the 5x5 convolution.
        pooled: output channels of the pooled path.

    Example:
        >>> Inception(192, 64, 96, 128, 16, 32, 32)(torch.zeros(1, 192, 4, 4)).shape
        torch.Size([1, 256, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        ones: int,
        reduce_threes: int,
        threes: int,
        reduce_fives: int,
        fives: int,
        pooled: int,
    ):
        super().__init__()
        self.out_channels = ones + threes + fives + pooled
        self.ones = conv(in_channels, ones, 1)
        self.threes = nn.Sequential(conv(in_channels, reduce_threes, 1), conv(reduce_threes, threes, 3))
        self.fives = nn.Sequential(conv(in_channels, reduce_fives, 1), conv(reduce_fives, fives, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(in_channels, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of the four paths, concatenated.

        Example:
            >>> Inception(8, 1, 1, 2, 1, 3, 4)(torch.zeros(1, 8, 4, 4)).shape
            torch.Size([1, 10, 4, 4])
        """
        return torch.cat([path(x) for path in (self.ones, self.threes, self.fives, self.pooled)], 1)


def conv(in_channels: int, out_channels: int, kernel_size: int) -> ConvModule:
    """Return a convolution that keeps the image size, with batch norm and ReLU.

    Example:
        >>> conv(3, 8, 5)(torch.zeros(1, 3, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """
    return ConvModule(in_channels, out_channels, kernel_size, padding=kernel_size // 2, norm_cfg={'type': 'BN'})
