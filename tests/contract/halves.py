"""A classifier, a batch, and a worker process for one half of the batch; imported by the processes it starts."""

import os

import torch
import torch.distributed as dist
from torch import nn

from tests.contract.ranks import leave


def classifier() -> nn.Module:
    """ResNet18 with moved CoC operators and batch norm in evaluation mode."""
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    backbone = {'type': 'ResNet', 'depth': 18, 'conv_cfg': {'type': 'CoCConv', 'super_init': 'kaiming'}}
    head = {'type': 'LinearClsHead', 'num_classes': 5, 'in_channels': 512}
    model = MODELS.build(
        {'type': 'ImageClassifier', 'backbone': backbone, 'neck': {'type': 'GlobalAveragePooling'}, 'head': head}
    )
    model.init_weights()
    model.train()
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.eval()
            # Frozen statistics that change the outputs.
            m.running_var.fill_(2.0)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 64, 64, generator=generator), torch.randint(5, (4,), generator=generator)


def loss_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(images, mode='tensor'), labels)


def worker(rank: int, port: int, folder: str) -> None:
    import mmkerv  # noqa: F401 - registers the operators in this process

    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(classifier())
    images, labels = batch()
    half = slice(2 * rank, 2 * rank + 2)
    loss_of(model, images[half], labels[half]).backward()
    torch.save({name: p.grad for name, p in model.module.named_parameters()}, os.path.join(folder, f'{rank}.pth'))
    leave()
