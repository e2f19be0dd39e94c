"""``mmkerv.DenseNetCifar``: DenseNet for 32x32 images without bottlenecks, which mmpretrain does not have."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.models.converted import apply_conv_cfg
from mmkerv.models.placement import Where
from mmkerv.ops.core.arguments import integer
from mmkerv.registry import MODELS

NUM_BLOCKS = 3


@MODELS.register_module()
class DenseNetCifar(BaseModule):
    """DenseNet for CIFAR, without bottlenecks and compression: three blocks of n layers, depth = 3n + 4.

    Layer l of a block computes :math:`x_l = H_l([x_0, ..., x_{l-1}])`, where H is batch norm, ReLU and a 3x3
    convolution with ``growth_rate`` outputs. Between the blocks are a 1x1 convolution that keeps the channels and a 2x2
    average pool. (N, 3, H, W) -> ((N, C, H/4, W/4),) with C = ``channels`` (448 for depth 40, growth 12).

    Args:
        depth: 3n + 4, such as 40 or 100.
        growth_rate: channels that each layer adds.
        in_channels: channels of the image.
        stem_channels: channels of the first convolution.
        drop_rate: dropout after every convolution but the first; the paper uses 0.2 without data augmentation.
        conv_cfg: operator, such as ``dict(type='KervConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, by default all that the operator takes, see
            :class:`mmkerv.models.placement.Where`.
        init_cfg: as in every mmengine module; by default He's initialisation, as in the paper.

    Raises:
        ValueError: if the depth is not 3n + 4, or ``where`` selects nothing.
        TypeError: for an unknown argument.

    Source: Densely Connected Convolutional Networks, CVPR 2017, sections 3 and 4.2.

    Example:
        >>> net = DenseNetCifar(depth=10, growth_rate=4)
        >>> net(torch.zeros(1, 3, 32, 32))[-1].shape[1] == net.channels == 40
        True
    """

    def __init__(
        self,
        depth: int = 40,
        growth_rate: int = 12,
        in_channels: int = 3,
        stem_channels: int = 16,
        drop_rate: float = 0.0,
        conv_cfg: dict | None = None,
        where: Where | dict | None = None,
        init_cfg: dict | list | None = None,
    ):
        kaiming = {'type': 'Kaiming', 'layer': 'Conv2d'}
        super().__init__(init_cfg or [kaiming, {'type': 'Constant', 'val': 1, 'layer': '_BatchNorm'}])
        num_layers, rest = divmod(integer(depth, 'depth', NUM_BLOCKS + 4) - 4, NUM_BLOCKS)
        if rest:
            raise ArgumentError(f'depth must be {NUM_BLOCKS}n + 4, such as 40 or 100, got {depth}')
        # Each norm precedes its convolution. The stem is a Sequential of its own, so that tools which fuse a norm into
        # the convolution before it do not fuse the first block's norm into the stem.
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem_channels, 3, padding=1, bias=False))
        self.stages, self.transitions = nn.ModuleList(), nn.ModuleList()
        channels = stem_channels
        for i in range(NUM_BLOCKS):
            self.stages.append(DenseBlock(num_layers, channels, growth_rate, drop_rate))
            channels += num_layers * growth_rate
            last = i == NUM_BLOCKS - 1
            self.transitions.append(
                nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
                if last
                else nn.Sequential(*layer_modules(channels, channels, 1, drop_rate), nn.AvgPool2d(2))
            )
        self.channels = channels
        apply_conv_cfg(self, conv_cfg, where)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return the last feature map, in a tuple as mmpretrain's heads expect it.

        Args:
            x: (N, 3, H, W).

        Example:
            >>> DenseNetCifar(depth=7)(torch.zeros(2, 3, 8, 8))[0].shape
            torch.Size([2, 52, 2, 2])
        """
        x = self.stem(x)
        for stage, transition in zip(self.stages, self.transitions):
            x = transition(stage(x))
        return (x,)


class DenseBlock(nn.ModuleList):
    """Block in which each layer sees the input and the outputs of all layers before it.

    Args:
        num_layers: number of layers.
        in_channels: channels of the block's input.
        growth_rate: channels that each layer adds.
        drop_rate: dropout after each convolution.

    Example:
        >>> DenseBlock(3, 16, 12, 0.0)(torch.zeros(1, 16, 4, 4)).shape
        torch.Size([1, 52, 4, 4])
    """

    def __init__(self, num_layers: int, in_channels: int, growth_rate: int, drop_rate: float):
        widths = [in_channels + i * growth_rate for i in range(num_layers)]
        super().__init__(nn.Sequential(*layer_modules(width, growth_rate, 3, drop_rate)) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and the outputs of all layers, (N, C + num_layers * growth_rate, H, W).

        Example:
            >>> DenseBlock(1, 16, 12, 0.0)(torch.zeros(1, 16, 4, 4)).shape
            torch.Size([1, 28, 4, 4])
        """
        for layer in self:
            x = torch.cat([x, layer(x)], 1)
        return x


def layer_modules(in_channels: int, out_channels: int, kernel_size: int, drop_rate: float) -> list[nn.Module]:
    """Return batch norm, ReLU, a convolution that keeps the image size, and dropout unless its rate is 0.

    Example:
        >>> len(layer_modules(16, 12, 3, 0.0)), len(layer_modules(16, 12, 3, 0.2))
        (3, 4)
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    dropout = [nn.Dropout(drop_rate)] if drop_rate else []
    return [nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), conv, *dropout]
