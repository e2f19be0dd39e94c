"""A small model with hidden weights, and the work of one process of two that train it; started processes import it."""

import os
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmkerv.ops import CoCConv2d
from tests.contract.ranks import leave, start

WRAPPER = dict(
    constructor='mmkerv.ConvMuonConstructor',
    optimizer=dict(type='mmkerv.ConvMuon', lr=0.02, weight_decay=0.1),
    paramwise_cfg=dict(rest=dict(type='AdamW', lr=0.01, weight_decay=0.05), norm_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)


class HiddenModel(BaseModel):
    """Four layers in a row; the second and the third are hidden, the second an operator."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), CoCConv2d(4, 8, 3, super_init='kaiming'), nn.ReLU(),
            nn.Conv2d(8, 4, 3, padding=1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1),
        )  # fmt: skip

    def forward(self, inputs: Tensor, target: Tensor | None = None, mode: str = 'tensor') -> Any:
        outputs = self.net(inputs)[:, 0]
        if mode == 'loss':
            return {'loss': (outputs.float() - target).square().mean()}
        return list(outputs) if mode == 'predict' else outputs


def train(model: nn.Module, wrapper: OptimWrapper, share: slice) -> None:
    """Three steps on a share of each batch."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
        loss = (model(images[share]) - images[share].mean(dim=(1, 2, 3))).square().mean()
        wrapper.update_params(loss)


def plain_model() -> nn.Module:
    """The model in double precision, its norm by fixed statistics, which do not depend on the share."""
    model = HiddenModel().double()
    model.net[1].eval()
    return model


def worker(rank: int, port: int, folder: str) -> None:
    start(rank, 2, port)
    model = DistributedDataParallel(plain_model())
    train(model, build_optim_wrapper(model.module, WRAPPER), slice(2 * rank, 2 * rank + 2))
    torch.save(model.module.state_dict(), os.path.join(folder, f'{rank}.pth'))
    leave()
