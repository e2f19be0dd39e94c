"""``mmkerv.KernelSizeNet``: two blocks of convolutions and a dense layer, to compare the forms of a convolution."""

from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import integer
from mmkerv.registry import MODELS

CHANNELS = (32, 64)


@MODELS.register_module()
class KernelSizeNet(BaseModule):
    r"""Two blocks of convolutions, each followed by ReLU, and of a maximum over 2x2; then a dense layer with ReLU.

    (N, C, H, W) -> ((N, hidden),); a linear head is the second dense layer. The source describes no more than this of
    its network ("2 convolution blocks and 2 dense layers"): the channels, 32 and 64, and the width are ours.

    Args:
        kernel_size: size of every kernel, odd; the output of a convolution is as large as its input.
        convs: convolutions in each block, >= 1.
        hidden: width of the dense layer, >= 1.
        image_size: height and width of the images, a multiple of 4.
        in_channels: channels of the images, >= 1.
        conv_cfg: operator of all convolutions, such as ``dict(type='mmkerv.StackedConv')``; ``None`` is plain.
        init_cfg: as in every mmengine module; by default torch's initialisation.

    Raises:
        ValueError: if a value is too small, or ``kernel_size`` is even.

    Source: Chazareix, "How to optimize Convolutional Layer with Convolution Kernel" (2022).

    Example:
        >>> import torch
        >>> KernelSizeNet(kernel_size=5, convs=1)(torch.zeros(1, 3, 32, 32))[0].shape
        torch.Size([1, 512])
    """

    def __init__(
        self,
        kernel_size: int = 3,
        convs: int = 2,
        hidden: int = 512,
        image_size: int = 32,
        in_channels: int = 3,
        conv_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        integer(convs, 'convs', 1)
        if integer(kernel_size, 'kernel_size', 1) % 2 == 0:
            raise ArgumentError(
                f'kernel_size must be odd, so that a convolution keeps the size of its input, got {kernel_size}; use '
                f'{kernel_size + 1}'
            )
        layers: list[nn.Module] = []
        width = integer(in_channels, 'in_channels', 1)
        for channels in CHANNELS:
            for _ in range(convs):
                layers += [
                    build_conv_layer(conv_cfg, width, channels, kernel_size, padding=kernel_size // 2),
                    nn.ReLU(),
                ]
                width = channels
            layers.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*layers)
        side = integer(image_size, 'image_size', 4) // 4
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(width * side**2, integer(hidden, 'hidden', 1)), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return the feature (N, hidden), in a tuple as mmpretrain's heads expect it."""
        return (self.dense(self.blocks(x)),)
