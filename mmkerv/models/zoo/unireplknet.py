"""``mmkerv.UniRepLKNet``: the large-kernel network UniRepLKNet as a backbone, of re-parameterized convolutions."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkerv.errors import ArgumentError
from mmkerv.models.zoo import stage_arguments
from mmkerv.ops import ReparamConv2d
from mmkerv.ops.core.arguments import boolean, integer, integers, one_of, real
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.branches import scale_and_shift
from mmkerv.ops.core.geometry import memory_format, odd
from mmkerv.ops.reparam import UNIREP
from mmkerv.registry import MODELS

STAGES = 4
# From this size on, a depthwise kernel has dilated branches beside it.
LARGE = 7
# Kernel sizes of the third stage: T alternates 13 and 3, the larger networks have two 3 after each 13.
SMALL_NETWORKS = {'depths': (2, 2, 6, 2), 'kernel_sizes': (3, 13, 13, 13)}
LARGE_NETWORKS = {'depths': (3, 3, 27, 3), 'kernel_sizes': (3, 13, (13, 3, 3) * 9, 13)}
ARCHS: dict[str, dict[str, Any]] = {
    'A': {**SMALL_NETWORKS, 'channels': 40},
    'F': {**SMALL_NETWORKS, 'channels': 48},
    'P': {**SMALL_NETWORKS, 'channels': 64},
    'N': {**SMALL_NETWORKS, 'depths': (2, 2, 8, 2), 'channels': 80},
    'T': {'depths': (3, 3, 18, 3), 'kernel_sizes': (3, 13, (13, 3) * 9, 13), 'channels': 80},
    'S': {**LARGE_NETWORKS, 'channels': 96},
    'B': {**LARGE_NETWORKS, 'channels': 128},
    'L': {**LARGE_NETWORKS, 'channels': 192},
    'XL': {**LARGE_NETWORKS, 'channels': 256},
}
# Layer of the last stage for layer-wise learning rates.
DECAY_LAYERS = 12
# Names of the released checkpoints, and ours.
RELEASED = (
    (r'\.dwconv\.lk_origin\.', '.dwconv.'),
    (r'\.dwconv\.origin_bn\.', '.dwconv.basic.norm.'),
    (r'\.dwconv\.dil_conv_k(\d+)_(\d+)\.', r'.dwconv.parallel.k\1x\1d\2.'),
    (r'\.dwconv\.dil_bn_k(\d+)_(\d+)\.', r'.dwconv.parallel.k\1x\1d\2.norm.'),
)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W); keeps the memory layout.

    Example:
        >>> LayerNorm2d(8)(torch.randn(1, 8, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position of ``x``."""
        y = super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        # Channels-last maps would be misread by mmcv's roi_align.
        return y.contiguous(memory_format=memory_format(x))


class GlobalResponseNorm(nn.Module):
    r"""Global response normalisation of ConvNeXt V2, of (N, H, W, C): :math:`y_c = (\gamma_c n_c + 1) x_c + \beta_c`.

    :math:`n_c = g_c / (\mathrm{mean}_c\, g_c + 10^{-6})`, :math:`g_c` the L2 norm of channel c over all positions.

    Args:
        channels: C.
        bias: whether beta exists.

    Example:
        >>> x = torch.randn(1, 4, 4, 8)
        >>> bool(torch.equal(GlobalResponseNorm(8)(x), x))
        True
    """

    def __init__(self, channels: int, bias: bool = True):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.register_parameter('beta', nn.Parameter(torch.zeros(1, 1, 1, channels)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``."""
        norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        y = (self.gamma * (norms / (norms.mean(-1, keepdim=True) + 1e-6)) + 1) * x
        return y if self.beta is None else y + self.beta


class SqueezeExcitation(nn.Module):
    """Squeeze and excitation, with the released names.

    Args:
        channels: channels of the input and output.

    Example:
        >>> SqueezeExcitation(8)(torch.randn(1, 8, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x``."""
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class ToChannelsLast(nn.Module):
    """(N, C, H, W) -> (N, H, W, C).

    Example:
        >>> ToChannelsLast()(torch.zeros(1, 8, 5, 6)).shape
        torch.Size([1, 5, 6, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Permute ``x``."""
        return x.permute(0, 2, 3, 1)


class ToChannelsFirst(nn.Module):
    """(N, H, W, C) -> (N, C, H, W).

    Example:
        >>> ToChannelsFirst()(torch.zeros(1, 5, 6, 8)).shape
        torch.Size([1, 8, 5, 6])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Permute ``x``."""
        return x.permute(0, 3, 1, 2)


class UniRepLKNetBlock(nn.Module):
    r"""Block: :math:`y = x + \gamma\, \mathrm{BN}(W_2\, \mathrm{GRN}(\mathrm{GELU}(W_1 s(x))))`.

    s(x) is a depthwise convolution, a batch norm, and squeeze and excitation. With ``deploy`` the norms, beta and gamma
    are part of the convolution and of the second linear layer.

    Args:
        channels: C.
        kernel_size: size of the depthwise kernel; from 7 on it is a :class:`mmkerv.ops.ReparamConv2d` in training.
        drop_path: rate of stochastic depth.
        layer_scale: initial gamma.
        with_cp: recompute the block in backward.
        deploy: build the form of :meth:`switch_to_deploy`.

    Example:
        >>> block = UniRepLKNetBlock(8, 13).eval()
        >>> x = torch.randn(1, 8, 9, 9); y = block(x)
        >>> block.switch_to_deploy(); bool(torch.allclose(block(x), y, atol=1e-5))
        True
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        drop_path: float = 0.0,
        layer_scale: float = 1e-6,
        with_cp: bool = False,
        deploy: bool = False,
    ):
        super().__init__()
        self.with_cp = with_cp
        geometry = {'padding': kernel_size // 2, 'groups': channels, 'bias': deploy}
        self.is_large = kernel_size >= LARGE
        if self.is_large and not deploy:
            self.dwconv = ReparamConv2d(channels, channels, kernel_size, preset='unirep', **geometry)
            for branch in self.dwconv.parallel.values():
                nn.init.trunc_normal_(branch.weight, std=0.02)
        else:
            self.dwconv = nn.Conv2d(channels, channels, kernel_size, **geometry)
        self.norm = nn.Identity() if deploy else nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels)
        hidden = 4 * channels
        self.pwconv1 = nn.Sequential(ToChannelsLast(), nn.Linear(channels, hidden))
        self.act = nn.Sequential(nn.GELU(), GlobalResponseNorm(hidden, bias=not deploy))
        last = [] if deploy else [nn.BatchNorm2d(channels)]
        self.pwconv2 = nn.Sequential(nn.Linear(hidden, channels, bias=deploy), ToChannelsFirst(), *last)
        self.register_parameter('gamma', None if deploy else nn.Parameter(torch.full((channels,), layer_scale)))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (N, C, H, W), of the same shape."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._block, x, use_reentrant=False)
        return self._block(x)

    def _block(self, x: Tensor) -> Tensor:
        y = self.pwconv2(self.act(self.pwconv1(self.se(self.norm(self.dwconv(x))))))
        if self.gamma is not None:
            y = self.gamma.view(1, -1, 1, 1) * y
        return x + self.drop_path(y)

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Merge the norms, gamma and beta into the depthwise convolution and the second linear layer, in place."""
        if self.gamma is None:
            return
        conv = self.dwconv.to_conv2d() if isinstance(self.dwconv, ConvNd) else self.dwconv
        scale, shift = (value.to(conv.weight.dtype) for value in scale_and_shift(self.norm))
        bias = shift if conv.bias is None else shift + conv.bias * scale
        conv.weight.mul_(scale.view(-1, 1, 1, 1))
        conv.bias = nn.Parameter(bias)
        self.dwconv, self.norm = conv, nn.Identity()
        linear, norm, response = self.pwconv2[0], self.pwconv2[2], self.act[1]
        scale, shift = (value.to(linear.weight.dtype) for value in scale_and_shift(norm))
        projected = linear.weight @ response.beta.flatten()
        linear.bias = nn.Parameter((projected * scale + shift) * self.gamma)
        linear.weight.mul_((scale * self.gamma).view(-1, 1))
        response.beta, self.gamma = None, None
        self.pwconv2 = nn.Sequential(linear, self.pwconv2[1])


@MODELS.register_module()
class UniRepLKNet(stage_arguments.StagedBackbone):
    """UniRepLKNet: four stages of depthwise kernels of 13x13 and 3x3, (N, 3, H, W) -> maps of stride 4 to 32.

    The large kernels are :class:`mmkerv.ops.ReparamConv2d` with dilated branches. ``mmkerv.ops.switch_to_deploy`` folds
    each into one convolution; :meth:`switch_to_deploy`, which the fold tool calls too, merges the other norms of the
    blocks as well. Checkpoints of both released layouts load: those of training, and merged ones with
    ``deploy=True``.

    Args:
        arch: ``'A'``, ``'F'``, ``'P'``, ``'N'``, ``'T'``, ``'S'``, ``'B'``, ``'L'`` or ``'XL'``, or a dict with
            ``depths`` (blocks of each stage), ``channels`` (of the first stage, doubled in each further one) and
            ``kernel_sizes`` (for each stage one odd number or one for each block; in training at most 17).
        in_channels: channels of the image.
        out_indices: stages whose output is returned, 0 to 3 or -1 for the last: one integer or several. Each has a
            layer norm of its own.
        gap_before_final_norm: average each output over all positions before its norm, as mmpretrain's heads expect it;
            ``False`` for detection and segmentation.
        drop_path_rate: largest rate of stochastic depth, in [0, 1); it grows with the depth.
        layer_scale_init_value: initial factor gamma of each block.
        frozen_stages: number of stages that do not learn, with the layers before them; 0 freezes the stem alone, -1
            nothing.
        norm_eval: keep all batch norms in evaluation mode.
        with_cp: recompute each block in backward.
        deploy: build the merged form.
        init_cfg: as in every mmengine module; by default the paper's truncated normal distribution.

    Raises:
        ValueError: if a value is invalid.

    Source: UniRepLKNet, CVPR 2024, section 3. The public code's names ``dwconv.lk_origin`` and ``dil_conv_k5_1`` are
        ``dwconv`` and ``dwconv.parallel.k5x5d1`` here; released checkpoints are renamed while they load.

    Example:
        >>> net = UniRepLKNet('A', out_indices=(0, 1, 2, 3), gap_before_final_norm=False).eval()
        >>> [tuple(y.shape) for y in net(torch.randn(1, 3, 64, 64))]
        [(1, 40, 16, 16), (1, 80, 8, 8), (1, 160, 4, 4), (1, 320, 2, 2)]
    """

    # Its operators are no part of the config, which can name the form of `switch_to_deploy` alone.
    merges_with_fold = True

    def __init__(
        self,
        arch: str | dict = 'T',
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        gap_before_final_norm: bool = True,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict | list | None = None,
    ):
        trunc = {'type': 'TruncNormal', 'layer': ['Conv2d', 'Linear'], 'std': 0.02, 'bias': 0.0}
        super().__init__(init_cfg or [trunc])
        depths, channels, kernel_sizes = _settings(arch)
        integer(in_channels, 'in_channels', 1)
        self.out_indices = stage_arguments.output_stages(out_indices, STAGES)
        self.gap_before_final_norm = boolean(gap_before_final_norm, 'gap_before_final_norm')
        self.frozen_stages = stage_arguments.frozen_stages(frozen_stages, STAGES)
        self.norm_eval = boolean(norm_eval, 'norm_eval')
        self.depths, self.channels = depths, channels
        first = channels[0] // 2
        stem = [nn.Conv2d(in_channels, first, 3, 2, 1), LayerNorm2d(first, eps=1e-6), nn.GELU()]
        stem += [nn.Conv2d(first, channels[0], 3, 2, 1), LayerNorm2d(channels[0], eps=1e-6)]
        self.downsample_layers = nn.ModuleList([nn.Sequential(*stem)])
        for before, after in pairwise(channels):
            layers = nn.Conv2d(before, after, 3, 2, 1), LayerNorm2d(after, eps=1e-6)
            self.downsample_layers.append(nn.Sequential(*layers))
        rates = iter(stage_arguments.drop_path_rates(drop_path_rate, depths))
        options = {
            'layer_scale': real(layer_scale_init_value, 'layer_scale_init_value', 0.0),
            'with_cp': boolean(with_cp, 'with_cp'),
            'deploy': boolean(deploy, 'deploy'),
        }
        largest = max(map(max, kernel_sizes))
        if not deploy and largest > max(UNIREP):
            raise ArgumentError(
                f'arch.kernel_sizes must be <= {max(UNIREP)} in training, since larger kernels have no dilated '
                f'branches, got {largest}; use a smaller kernel'
            )
        self.stages = nn.ModuleList()
        for width, sizes in zip(channels, kernel_sizes):
            self.stages.append(nn.Sequential(*[UniRepLKNetBlock(width, k, next(rates), **options) for k in sizes]))
        for index in self.out_indices:
            self.add_module(f'norm{index}', LayerNorm2d(channels[index], eps=1e-6))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the chosen stages: (N, C_i, H_i, W_i), or (N, C_i) with ``gap_before_final_norm``."""
        outputs = []
        for index, (down, stage) in enumerate(zip(self.downsample_layers, self.stages)):
            x = stage(down(x))
            if index in self.out_indices:
                norm = getattr(self, f'norm{index}')
                if self.gap_before_final_norm:
                    outputs.append(norm(x.mean((2, 3), keepdim=True)).flatten(1))
                else:
                    outputs.append(norm(x))
        return tuple(outputs)

    def own_operators(self) -> list[str]:
        """Return the names of the layers that are operators without any conv_cfg, until they are merged."""
        return [name + '.dwconv' for name, block in self.named_modules() if getattr(block, 'is_large', False)]

    def switch_to_deploy(self) -> None:
        """Merge the norms of all blocks into their convolutions and linear layers, in place; for evaluation only."""
        for stage in self.stages:
            for block in stage:
                block.switch_to_deploy()

    def _freeze(self) -> None:
        frozen = [] if self.frozen_stages < 0 else [self.downsample_layers[0]]
        for index in range(self.frozen_stages):
            frozen += [self.downsample_layers[index], self.stages[index]]
        for module in frozen:
            module.eval().requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the layer of a parameter and the number of layers, for layer-wise learning rates.

        Three blocks of the third stage count as one layer, and the fourth stage is layer 12 for every network, as in
        the authors' training of detectors.

        Args:
            param_name: name of the parameter.
            prefix: prefix of the backbone's parameters in it.

        Example:
            >>> net = UniRepLKNet('T')
            >>> [net.get_layer_depth(f'{name}.0.weight') for name in ('downsample_layers.0', 'stages.2.17', 'norm3')]
            [(0, 14), (8, 14), (13, 14)]
        """
        last = max(DECAY_LAYERS, 3 + (self.depths[2] + 2) // 3)
        parts = param_name.removeprefix(prefix).split('.')
        if parts[0] == 'downsample_layers':
            depth = (0, 2, 3, last)[int(parts[1])]
        elif parts[0] == 'stages':
            depth = (1, 2, 3 + int(parts[2]) // 3, last)[int(parts[1])]
        else:
            depth = last + 1
        return depth, last + 2

    def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace the released names of parameters by ours, in place.

        Args:
            state_dict: weights of a network.
            prefix: of the backbone's keys.

        Example:
            >>> state = {'stages.0.0.dwconv.lk_origin.weight': torch.ones(40, 1, 3, 3)}
            >>> UniRepLKNet('A').read_published(state, ''); list(state)
            ['stages.0.0.dwconv.weight']
        """
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[prefix + self._own_name(key.removeprefix(prefix))] = state_dict.pop(key)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        self.read_published(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _own_name(self, name: str) -> str:
        """Return our name of a released parameter; the released final norm belongs to the averaged last output."""
        for pattern, ours in RELEASED:
            name = re.sub(pattern, ours, name)
        last = STAGES - 1
        if self.gap_before_final_norm and self.out_indices == (last,):
            name = re.sub(r'^norm\.', f'norm{last}.', name)
        return name


def _settings(arch: str | dict) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Return the depths, channels and kernel sizes of the stages."""
    if isinstance(arch, dict):
        known = set(ARCHS['A'])
        if set(arch) != known:
            raise ArgumentError(f'arch must have the keys {", ".join(sorted(known))}, got {", ".join(sorted(arch))}')
        settings = arch
    else:
        settings = ARCHS[one_of(arch, 'arch', tuple(ARCHS))]
    depths = integers(settings['depths'], STAGES, 'arch.depths', 1)
    sizes = settings['kernel_sizes']
    if not isinstance(sizes, Sequence) or len(sizes) != STAGES:
        raise ArgumentError(
            f'arch.kernel_sizes must have one number, or one for each block, for each of {STAGES} stages, got {sizes!r}'
        )
    kernel_sizes = []
    for depth, size in zip(depths, sizes):
        blocks = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size,) * depth
        if len(blocks) != depth:
            raise ArgumentError(f'arch.kernel_sizes must have one number for each of {depth} blocks, got {size!r}')
        kernel_sizes.append(odd(tuple(integer(k, 'arch.kernel_sizes', 1) for k in blocks), 'arch.kernel_sizes'))
    channels = integer(settings['channels'], 'arch.channels', 8)
    return depths, tuple(channels * 2**i for i in range(STAGES)), tuple(kernel_sizes)
