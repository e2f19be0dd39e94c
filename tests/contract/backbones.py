"""Small forms of the advertised backbones, building, and their outputs."""

import copy
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmkerv.models.upstream_backbones import LIBRARIES

__all__ = ['BACKBONES', 'HRNET', 'LIBRARIES', 'build', 'outputs']


def _stage(branches: int, block: str, channels: tuple[int, ...]) -> dict:
    return dict(num_modules=1, num_branches=branches, block=block, num_blocks=(1,) * branches, num_channels=channels)


HRNET = dict(
    stage1=_stage(1, 'BOTTLENECK', (16,)),
    stage2=_stage(2, 'BASIC', (8, 16)),
    stage3=_stage(3, 'BASIC', (8, 16, 32)),
    stage4=_stage(4, 'BASIC', (8, 16, 32, 64)),
)
NARROW = dict(depth=18, base_channels=8, stem_channels=8)
BACKBONES = {
    'ResNet': dict(type='ResNet', **NARROW),
    'ResNetV1c': dict(type='ResNetV1c', **NARROW),
    'ResNetV1d': dict(type='ResNetV1d', **NARROW),
    'HRNet': dict(type='HRNet', extra=HRNET),
    'ShuffleNetV2': dict(type='ShuffleNetV2', widen_factor=0.5),
    'MobileNetV2': dict(type='MobileNetV2', widen_factor=0.25),
    'MobileNetV3': dict(type='MobileNetV3', arch='small'),
}


def build(scope: str, cfg: dict, *, init: bool = True, **changes: Any) -> nn.Module:
    """Build a network of a library with a fixed seed; skip if the library is absent."""
    pytest.importorskip(scope)
    init_default_scope(scope)
    torch.manual_seed(0)
    net = MODELS.build({**copy.deepcopy(cfg), **changes})
    if init:
        net.init_weights()
    # Upstream's backbones return nothing from train().
    net.eval()
    return net


def outputs(net: nn.Module, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Outputs of a network for random inputs, as a flat list."""
    generator, dtype = torch.Generator().manual_seed(0), next(net.parameters()).dtype
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    with torch.no_grad():
        return flat(net(inputs if len(inputs) > 1 or hasattr(net, 'conv_seg') else inputs[0]))


def flat(out: Any) -> list[Tensor]:
    """Flatten nested lists of tensors."""
    return [tensor for item in out for tensor in flat(item)] if isinstance(out, (list, tuple)) else [out]
