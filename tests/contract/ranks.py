"""Work of each process in the distributed tests; the started processes import it."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmkerv.ops import frozen_kernels
from tests.ops.catalogue import DISTRIBUTED, layer

BATCH = 8


class Network(nn.Module):
    """An operator between two convolutions, and a mean over the positions."""

    def __init__(self, name: str):
        super().__init__()
        self.operator = layer(name, 4, 6)
        self.dims = self.operator.dims
        conv = {1: nn.Conv1d, 2: nn.Conv2d}[self.dims]
        self.first, self.last = conv(3, 4, 1), conv(self.operator.out_channels, 2, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operator(self.first(x))).flatten(2).mean(2)


def batch(dims: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 3, *(6,) * dims, generator=generator, dtype=torch.float64)
    return x, torch.randn(BATCH, 2, generator=generator, dtype=torch.float64)


def step(model: nn.Module, x: Tensor, target: Tensor, rate: float = 0.1) -> dict[str, Tensor]:
    """Take one step of gradient descent and return the gradients by name."""
    model.zero_grad()
    (model(x) - target).square().mean().backward()
    gradients = {name.removeprefix('module.'): p.grad.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p -= rate * p.grad
    return gradients


def start(rank: int, world: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=world)


def leave() -> None:
    """End this process when all have got here."""
    dist.barrier()
    dist.destroy_process_group()
    # Without the interpreter's own exit: a thread of gloo that still holds Python objects aborts the process in it.
    os._exit(0)


def train(rank: int, world: int, port: int, folder: str) -> None:
    """Two steps of every operator's network on this process's share, then its outputs with frozen kernels."""
    start(rank, world, port)
    result = {}
    for name in DISTRIBUTED:
        model = DistributedDataParallel(Network(name))
        x, target = batch(model.module.dims)
        share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        steps = [step(model, x[share], target[share]) for _ in range(2)]
        with torch.no_grad(), frozen_kernels(model):
            frozen = model(x)
        result[name] = {'gradients': steps, 'frozen': frozen, 'state': model.module.state_dict()}
    torch.save(result, os.path.join(folder, f'{rank}.pth'))
    leave()


def shard(rank: int, world: int, port: int, folder: str) -> None:
    """Two steps of every operator's network with its parameters spread over the processes (FSDP)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    start(rank, world, port)
    mesh = init_device_mesh('cpu', (world,))
    result = {}
    for name in DISTRIBUTED:
        model = Network(name)
        fully_shard(model.operator, mesh=mesh)
        fully_shard(model, mesh=mesh)
        x, target = batch(model.dims)
        share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        steps = [step(model, x[share], target[share]) for _ in range(2)]
        result[name] = [{key: gradient.full_tensor() for key, gradient in s.items()} for s in steps]
    if rank == 0:
        torch.save(result, Path(folder, 'sharded.pth'))
    leave()
