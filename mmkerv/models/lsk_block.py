r"""``mmkerv.LSKBlock``: large selective kernels, attention that chooses between two receptive fields at each position.

y = x * P3(g1 b1 + g2 b2). Li et al., "Large Selective Kernel Network for Remote Sensing Object Detection", ICCV 2023.
"""

import math

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkerv.ops.core.arguments import boolean, integer
from mmkerv.registry import MODELS


@MODELS.register_module()
class LSKBlock(BaseModule):
    r"""Large selective kernel: :math:`y = x \cdot P_3(g_1 b_1 + g_2 b_2)`, (N, C, H, W) -> (N, C, H, W).

    :math:`a_1 = D_5 * x,\; a_2 = D_7 * a_1,\; b_i = P_i a_i,\; g = \sigma(S * [\mathrm{mean}_c(b),\, \max_c(b)])`

    :math:`D_5` is a depthwise 5x5 convolution, and :math:`D_7` a depthwise 7x7 convolution of dilation 3, so that
    :math:`a_2` sees 23x23 positions. :math:`P_1` and :math:`P_2` are 1x1 convolutions from C to C // 2 channels,
    :math:`P_3` is one back to C. S is a 7x7 convolution from the mean and the maximum over the channels of
    :math:`b = [b_1, b_2]` to one map for each of the two. All have a bias.

    It is a plugin of the ResNets of mmdetection and mmsegmentation, and the attention of
    :class:`mmkerv.models.LSKNet`. :func:`mmkerv.convert` keeps its convolutions plain unless ``where.names`` names
    them.

    Args:
        in_channels: C, >= 2.
        identity_start: start with :math:`P_3` = 1, that is weight 0 and bias 1, so that a fresh block is the identity
            and leaves a pretrained network as it is; ``False`` draws :math:`P_3` as the other layers. The output then
            grows with the square of the input, which needs norms in training mode around the block.
        init_cfg: as in every mmengine module; by default weights are drawn from a normal distribution of variance
            2 / fan_out, and biases are 0.

    Raises:
        ValueError: if a value is too small.
        TypeError: if an argument has the wrong type.

    Attributes:
        conv0, conv_spatial: :math:`D_5` and :math:`D_7`.
        conv1, conv2, conv: :math:`P_1`, :math:`P_2` and :math:`P_3`.
        conv_squeeze: S.

    Source: LSKNet, ICCV 2023, section 3.3.

    Example:
        >>> block = LSKBlock(64)
        >>> x = torch.randn(2, 64, 16, 16)
        >>> bool(torch.equal(block(x), x)), sum(p.numel() for p in block.parameters())
        (True, 11334)
    """

    def __init__(self, in_channels: int, identity_start: bool = True, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        self.identity_start = boolean(identity_start, 'identity_start')
        channels = integer(in_channels, 'in_channels', 2)
        half = channels // 2
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.conv1 = nn.Conv2d(channels, half, 1)
        self.conv2 = nn.Conv2d(channels, half, 1)
        self.conv_squeeze = nn.Conv2d(2, 2, 7, padding=3)
        self.conv = nn.Conv2d(half, channels, 1)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (N, C, H, W), of the same shape."""
        near = self.conv0(x)
        far = self.conv_spatial(near)
        near, far = self.conv1(near), self.conv2(far)
        both = torch.cat([near, far], dim=1)
        squeezed = torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], dim=1)
        gates = self.conv_squeeze(squeezed).sigmoid()
        return x * self.conv(gates[:, :1] * near + gates[:, 1:] * far)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says, by default as :meth:`reset_parameters` does."""
        # The network around the block may have initialised its convolutions already, which undoes an identity start.
        if self.init_cfg is None:
            self.reset_parameters()
        super().init_weights()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights, set the biases to 0, and with ``identity_start`` make the block the identity.

        Example:
            >>> block = LSKBlock(8); block.reset_parameters(); float(block.conv.bias.mean())
            1.0
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draw_by_fan_out(module)
        if self.identity_start:
            nn.init.zeros_(self.conv.weight)
            nn.init.ones_(self.conv.bias)


@torch.no_grad()
def draw_by_fan_out(conv: nn.Conv2d) -> None:
    """Draw a weight (O, I / g, kH, kW) from a normal distribution of variance 2 / (kH kW O / g); the bias becomes 0.

    Example:
        >>> conv = nn.Conv2d(64, 64, 5, groups=64); draw_by_fan_out(conv)
        >>> 0.2 < float(conv.weight.std()) < 0.4  # sqrt(2 / 25) is 0.28
        True
    """
    fan_out = conv.weight[:, 0].numel() // conv.groups
    conv.weight.normal_(0, math.sqrt(2 / fan_out))
    if conv.bias is not None:
        conv.bias.zero_()
