"""``mmkerv.LeNet5Kerv``: LeNet-5 with kervolutions, the network of the kervolution paper's section 4."""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_activation_layer, build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core.arguments import one_of
from mmkerv.registry import MODELS

POOLS = {'max': nn.MaxPool2d, 'avg': nn.AvgPool2d}
CHANNELS = (6, 16)


@MODELS.register_module()
class LeNet5Kerv(BaseModule):
    r"""LeNet-5 for 28x28 images, in which each of the two convolutions may be a kervolution.

    :math:`h = \mathrm{pool}(\mathrm{act}(\mathrm{norm}(\kappa(x))))` twice, with 5x5 kernels, 6 and 16 filters; then
    linear layers of 120 and 84 outputs, each followed by the activation. The feature (N, 84) is the input of
    ``LinearClsHead(num_classes=10, in_channels=84)``.

    Args:
        layers: ``conv_cfg`` of the first and of the second convolution, such as
            ``(dict(type='mmkerv.KervConv', kernel='gaussian', gamma=1.0), None)``; ``None`` is plain.
        act_cfg: activation after each layer, ``None`` for none.
        pool: ``'max'`` or ``'avg'``.
        norm_cfg: norm before each activation of a convolution, such as ``dict(type='BN')``; the paper mentions none.
        in_channels: channels of the images, >= 1.
        init_cfg: as in every mmengine module; by default torch's initialisation, as in the code the paper builds on.

    Raises:
        ValueError: for another ``pool``, or a number of layers other than two.

    Source: Kervolutional Neural Networks, CVPR 2019, section 4; LeCun et al., Gradient-based learning applied to
    document recognition, 1998.

    Example:
        >>> net = LeNet5Kerv((dict(type='mmkerv.KervConv', degree=3, balance=1.0), None))
        >>> net(torch.rand(2, 1, 28, 28))[0].shape
        torch.Size([2, 84])
    """

    def __init__(
        self,
        layers: Sequence[dict | None] = (None, None),
        act_cfg: dict | None = dict(type='ReLU'),  # noqa: B006 mmcv copies it; upstream's habit
        pool: str = 'max',
        norm_cfg: dict | None = None,
        in_channels: int = 1,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if len(layers) != len(CHANNELS):
            raise ArgumentError(f'layers must be two: the conv_cfg of each convolution or None; got {layers!r}')
        one_of(pool, 'pool', tuple(POOLS))
        stages = []
        for conv_cfg, channels, padding in zip(layers, CHANNELS, (2, 0)):
            stage = [build_conv_layer(conv_cfg, in_channels, channels, 5, padding=padding)]
            if norm_cfg:
                stage.append(build_norm_layer(norm_cfg, channels)[1])
            stages.append(nn.Sequential(*stage, *self._activation(act_cfg), POOLS[pool](2)))
            in_channels = channels
        self.layer1, self.layer2 = stages
        # Two pools reduce 28x28 to 5x5.
        self.fc = nn.Sequential(
            nn.Linear(CHANNELS[-1] * 25, 120),
            *self._activation(act_cfg),
            nn.Linear(120, 84),
            *self._activation(act_cfg),
        )

    @staticmethod
    def _activation(act_cfg: dict | None) -> list[nn.Module]:
        return [build_activation_layer(act_cfg)] if act_cfg else []

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return the feature (N, 84) of images (N, C, 28, 28), in a tuple as mmpretrain's backbones do.

        Raises:
            ValueError: for images of another size.

        Example:
            >>> LeNet5Kerv()(torch.rand(1, 1, 28, 28))[0].shape
            torch.Size([1, 84])
        """
        if x.shape[2:] != (28, 28):
            raise ArgumentError(f'LeNet5Kerv takes images of 28x28, got {tuple(x.shape)}; resize them')
        return (self.fc(torch.flatten(self.layer2(self.layer1(x)), 1)),)
