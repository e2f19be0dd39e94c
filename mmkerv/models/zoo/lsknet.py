"""``mmkerv.LSKNet``: a backbone of large selective kernels, for objects in images from the air."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkerv.errors import ArgumentError
from mmkerv.models.converted import apply_conv_cfg
from mmkerv.models.lsk_block import LSKBlock, draw_by_fan_out
from mmkerv.models.placement import Where
from mmkerv.models.zoo import stage_arguments
from mmkerv.ops.core.arguments import boolean, integer, integers, one_of, real
from mmkerv.ops.core.geometry import memory_format
from mmkerv.ops.core.initialisation import plain_convolutions
from mmkerv.registry import MODELS

STAGES = 4
ARCHS: dict[str, dict[str, Any]] = {
    'tiny': {'dims': (32, 64, 160, 256), 'depths': (3, 3, 5, 2), 'mlp_ratios': (8, 8, 4, 4)},
    'small': {'dims': (64, 128, 320, 512), 'depths': (2, 2, 4, 2), 'mlp_ratios': (8, 8, 4, 4)},
}
# Kernel size and stride of the patch embedding of each stage.
PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))


class PatchEmbedding(nn.Module):
    """Convolution of overlapping patches, and a norm: (N, C, H, W) -> (N, D, H / s, W / s).

    Args:
        in_channels: C.
        channels: D.
        size: kernel size, odd.
        stride: s.
        norm_cfg: config of the norm.

    Example:
        >>> PatchEmbedding(3, 8, 7, 4)(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, in_channels: int, channels: int, size: int, stride: int, norm_cfg: dict | None = None):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, size, stride, size // 2)
        self.norm = _norm(norm_cfg, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the patches of ``x``."""
        return self.norm(self.proj(x))


class Attention(nn.Module):
    r"""Selection between two 1x1 convolutions, beside a skip connection: :math:`x + P_2\, LSK(GELU(P_1 x))`.

    Args:
        channels: channels of the input and output.

    Example:
        >>> Attention(8)(torch.randn(1, 8, 16, 16)).shape
        torch.Size([1, 8, 16, 16])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = LSKBlock(channels, identity_start=False)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (N, C, H, W), of the same shape."""
        return x + self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))


class DepthwiseConv(nn.Module):
    """Depthwise 3x3 convolution, under its released name ``dwconv.dwconv``.

    Args:
        channels: channels of the input and output.

    Example:
        >>> DepthwiseConv(8)(torch.randn(1, 8, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``."""
        return self.dwconv(x)


class Mlp(nn.Module):
    """1x1 convolution, depthwise 3x3 convolution, GELU, 1x1 convolution.

    Args:
        channels: channels of the input and output.
        hidden: channels between them.

    Example:
        >>> Mlp(8, 32)(torch.randn(1, 8, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (N, C, H, W), of the same shape."""
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class LSKNetBlock(nn.Module):
    r"""Block: :math:`z = x + \lambda_1 A(N_1 x)`, :math:`y = z + \lambda_2 M(N_2 z)`.

    A is :class:`Attention`, M is :class:`Mlp`, N are batch norms, and lambda are factors for each channel.

    Args:
        channels: C.
        mlp_ratio: hidden channels of M, as a multiple of C.
        drop_path: rate of stochastic depth.
        layer_scale: initial lambda.
        norm_cfg: config of the norms.
        with_cp: recompute the block in backward.

    Example:
        >>> LSKNetBlock(8, 4)(torch.randn(2, 8, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        layer_scale: float = 1e-2,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
    ):
        super().__init__()
        self.with_cp = with_cp
        self.norm1, self.norm2 = _norm(norm_cfg, channels), _norm(norm_cfg, channels)
        self.attn = Attention(channels)
        self.drop_path = DropPath(drop_path)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (N, C, H, W), of the same shape."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._block, x, use_reentrant=False)
        return self._block(x)

    def _block(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1.view(1, -1, 1, 1) * self.attn(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2.view(1, -1, 1, 1) * self.mlp(self.norm2(x)))


@MODELS.register_module()
class LSKNet(stage_arguments.StagedBackbone):
    """LSKNet: four stages whose attention chooses the kernel size, (N, 3, H, W) -> maps of stride 4 to 32.

    State-dict keys are the released ones; a classifier's ``head`` is left out. Each output has a layer norm over its
    channels.

    Args:
        arch: ``'tiny'``, ``'small'``, or a dict with ``dims`` (channels), ``depths`` (blocks) and ``mlp_ratios``
            (hidden channels of the MLP as a multiple), each of the four stages.
        in_channels: channels of the image.
        out_indices: stages whose output is returned, 0 to 3 or -1 for the last: one integer or several.
        drop_path_rate: largest rate of stochastic depth, in [0, 1); it grows with the depth. Published: 0.1.
        layer_scale_init_value: initial factor of the attention and of the MLP of each block.
        frozen_stages: number of stages that do not learn, with the patch embeddings before them; 0 freezes the first
            patch embedding alone, -1 nothing.
        norm_eval: keep all batch norms in evaluation mode.
        with_cp: recompute each block in backward.
        conv_cfg: operator, such as ``dict(type='CoCConv')``; ``None`` keeps the network plain.
        where: rule that selects the convolutions, see :class:`mmkerv.models.placement.Where`; by default all but 1x1:
            patch embeddings and the depthwise 3x3 of the MLPs. Those of the attention (:class:`LSKBlock`) only if
            ``names`` names them, such as ``names=r'conv0$'``.
        norm_cfg: norms of the blocks and patch embeddings; by default ``dict(type='BN')``.
        init_cfg: as in every mmengine module; by default weights are drawn from a normal distribution of variance
            2 / fan_out, and biases are 0.

    Raises:
        ValueError: if a value is invalid, or ``where`` selects nothing.
        TypeError: if an argument has the wrong type.

    Source: Li et al., "Large Selective Kernel Network for Remote Sensing Object Detection", ICCV 2023, section 3.

    Example:
        >>> net = LSKNet('tiny', out_indices=(0, 1, 2, 3)).eval()
        >>> [tuple(y.shape) for y in net(torch.randn(1, 3, 64, 64))]
        [(1, 32, 16, 16), (1, 64, 8, 8), (1, 160, 4, 4), (1, 256, 2, 2)]
    """

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-2,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        conv_cfg: dict | None = None,
        where: Where | dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.dims, self.depths, ratios = _settings(arch)
        self.out_indices = stage_arguments.output_stages(out_indices, STAGES)
        self.frozen_stages = stage_arguments.frozen_stages(frozen_stages, STAGES)
        self.norm_eval = boolean(norm_eval, 'norm_eval')
        options = {
            'layer_scale': real(layer_scale_init_value, 'layer_scale_init_value', 0.0),
            'with_cp': boolean(with_cp, 'with_cp'),
            'norm_cfg': norm_cfg,
        }
        rates = iter(stage_arguments.drop_path_rates(drop_path_rate, self.depths))
        before = integer(in_channels, 'in_channels', 1)
        for i, (width, depth, ratio) in enumerate(zip(self.dims, self.depths, ratios)):
            self.add_module(f'patch_embed{i + 1}', PatchEmbedding(before, width, *PATCHES[i], norm_cfg))
            blocks = [LSKNetBlock(width, ratio, next(rates), **options) for _ in range(depth)]
            self.add_module(f'block{i + 1}', nn.ModuleList(blocks))
            self.add_module(f'norm{i + 1}', nn.LayerNorm(width, eps=1e-6))
            before = width
        apply_conv_cfg(self, conv_cfg, where)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the chosen stages, (N, C_i, H_i, W_i)."""
        outputs = []
        for i in range(STAGES):
            x = getattr(self, f'patch_embed{i + 1}')(x)
            for block in getattr(self, f'block{i + 1}'):
                x = block(x)
            layout = memory_format(x)
            x = getattr(self, f'norm{i + 1}')(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            # The norm leaves channels-last maps, which mmcv's roi_align would misread.
            x = x.contiguous(memory_format=layout)
            if i in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says, by default as the authors do."""
        with plain_convolutions(self):
            if self.init_cfg is None:
                self._draw()
            super().init_weights()

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the layer of a parameter and the number of layers, for layer-wise learning rates.

        Each block is a layer, with the patch embedding before it and the norm of its stage behind it; layer 0 is the
        first patch embedding, and the last one is the head's, which the backbone does not have.

        Args:
            param_name: name of the parameter.
            prefix: prefix of the backbone's parameters in it.

        Raises:
            ValueError: if the backbone has no such parameter.

        Example:
            >>> net = LSKNet('tiny')
            >>> names = ('patch_embed1.proj.weight', 'block1.0.norm1.bias', 'patch_embed2.norm.bias', 'norm4.bias')
            >>> [net.get_layer_depth(name) for name in names]
            [(0, 15), (1, 15), (4, 15), (13, 15)]
        """
        name = param_name.removeprefix(prefix)
        match = re.match(r'(patch_embed|block|norm)([1-4])\.(\d*)', name)
        if not match:
            raise ArgumentError(f'LSKNet has no parameter {param_name!r}; use the names of named_parameters()')
        part, stage = match[1], int(match[2])
        first = 1 + sum(self.depths[: stage - 1])
        if part == 'block':
            depth = first + int(match[3])
        elif part == 'norm':
            depth = first + self.depths[stage - 1] - 1
        else:
            depth = first if stage > 1 else 0
        return depth, sum(self.depths) + 2

    def _draw(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draw_by_fan_out(module)

    def _freeze(self) -> None:
        parts = [f'{part}{i + 1}' for i in range(self.frozen_stages) for part in ('patch_embed', 'block', 'norm')]
        for name in ['patch_embed1', *parts] if self.frozen_stages >= 0 else []:
            getattr(self, name).eval().requires_grad_(False)


def _norm(norm_cfg: dict | None, channels: int) -> nn.Module:
    return build_norm_layer({'type': 'BN'} if norm_cfg is None else norm_cfg, channels)[1]


def _settings(arch: str | dict) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Return the channels, depths and MLP ratios of the stages."""
    if isinstance(arch, dict):
        known = set(ARCHS['tiny'])
        if set(arch) != known:
            raise ArgumentError(f'arch must have the keys {", ".join(sorted(known))}, got {", ".join(sorted(arch))}')
    else:
        arch = ARCHS[one_of(arch, 'arch', tuple(ARCHS))]
    dims = integers(arch['dims'], STAGES, 'arch.dims', 2)
    depths = integers(arch['depths'], STAGES, 'arch.depths', 1)
    ratios = arch['mlp_ratios']
    if not isinstance(ratios, Sequence) or len(ratios) != STAGES:
        raise ArgumentError(f'arch.mlp_ratios must have one number for each of {STAGES} stages, got {ratios!r}')
    for width, ratio in zip(dims, ratios):
        if int(width * real(ratio, 'arch.mlp_ratios', 0.0)) < 1:
            raise ArgumentError(f'arch.mlp_ratios must leave the MLP of {width} channels some, got {ratio!r}')
    return dims, depths, tuple(ratios)
