"""Two gloo processes: the all-reduced gradient is the mean of the two half-batch gradients of one process."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mmkerv.ops import CoCConv2d

pytest.importorskip('mmpretrain')


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
            # Something for the frozen statistics to do.
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
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradient_is_the_mean_of_the_halves(tmp_path):
    mp.start_processes(worker, args=(29541, str(tmp_path)), nprocs=2, start_method='spawn')
    expected: dict[str, torch.Tensor] = {}
    for rank in range(2):
        model = classifier()
        images, labels = batch()
        loss_of(model, images[2 * rank : 2 * rank + 2], labels[2 * rank : 2 * rank + 2]).backward()
        for name, p in model.named_parameters():
            expected[name] = expected.get(name, 0) + p.grad / 2
    assert sum(isinstance(m, CoCConv2d) for m in model.modules()) == 17
    assert any('super_layers' in name for name in expected)
    for rank in range(2):
        found = torch.load(tmp_path / f'{rank}.pth', weights_only=True)
        assert set(found) == set(expected)
        for name, gradient in found.items():
            error = (gradient - expected[name]).norm() / expected[name].norm().clamp_min(1e-12)
            assert error < 1e-5, (name, float(error))
