"""Cost of operators in distributed training: bytes and time of a step with several processes, against plain layers.

The network is torchvision's ResNet with the operator in place of its convolutions, once under
DistributedDataParallel and once with its parameters spread over the processes by ``fully_shard`` (FSDP2), a residual
block at a time. On the CPU the processes communicate through gloo, on GPUs through nccl. Bytes are those a process
hands to the collectives: with DDP the gradients, counted in a communication hook, and the buffers that are broadcast;
with FSDP the parameters, gathered for forward and again for backward, and the gradients. Ratios are computed within a
repeat (see timing.py).

    python benchmarks/distributed.py
    python benchmarks/distributed.py --device cuda --processes 8 --network resnet50 --batch 32
"""

import argparse
import os
import socket
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

OPERATORS = ('coc', 'dcls', 'reparam', 'ck', 'lowrank', 'weighted', 'condconv', 'fdconv', 'kerv')


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    from record import add_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', choices=('resnet18', 'resnet50'), default='resnet50')
    parser.add_argument('--operators', nargs='+', default=list(OPERATORS), help='as --operator of tools/train.py')
    parser.add_argument('--processes', type=int, default=2, help='with --device cuda, one a GPU')
    parser.add_argument('--batch', type=int, default=2, help='images of a process')
    parser.add_argument('--size', type=int, default=224, help='height and width of the images')
    add_arguments(parser, repeats=7)
    args = parser.parse_args()
    if args.processes < 2:
        parser.error(f'--processes must be at least 2, got {args.processes}')
    return args


def main() -> None:
    """Start the processes; the first one prints and writes."""
    from machine import Machine

    args = parse_args()

    import torch
    from torch import multiprocessing

    from mmkerv.engine.config.operator_spec import parse_operator

    Machine(args.device).checked()
    for operator in args.operators:
        parse_operator(operator, flag='--operators')
    if args.device != 'cpu' and torch.cuda.device_count() < args.processes:
        sys.exit(f'error: --processes {args.processes}: torch sees {torch.cuda.device_count()} CUDA devices')
    args.threads = args.threads or max(1, torch.get_num_threads() // args.processes)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(process, (args, port), args.processes, start_method='spawn')


def process(rank: int, args: argparse.Namespace, port: int) -> None:
    """Measure as one of the processes."""
    import torch
    import torch.distributed as dist
    from record import Record

    torch.set_num_threads(args.threads)
    if args.device != 'cpu':
        args.device = f'cuda:{rank}'
        torch.cuda.set_device(rank)
    backend = 'gloo' if args.device == 'cpu' else 'nccl'
    dist.init_process_group(backend, init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=args.processes)
    record = Record('distributed', args, processes=args.processes, backend=backend) if rank == 0 else None
    for wrap in (replicated, sharded):
        for operator in args.operators:
            measure(wrap, operator, args, record)
    if record:
        record.write()
    dist.barrier()
    dist.destroy_process_group()
    # Without the interpreter's own exit: a thread of gloo that still holds Python objects aborts the process in it.
    os._exit(0)


def measure(wrap: Callable, operator: str, args: argparse.Namespace, record: Any) -> None:
    """Compare a network with an operator with the plain one, both distributed in one way."""
    from timing import CONTROL, Ratio, interleaved, ratio

    networks = {name: wrap(build(spec, args), args) for name, spec in {'plain': '', operator: operator}.items()}
    steps = {name: partial(step, model, optimizer, args) for name, (model, optimizer, _) in networks.items()}
    steps = {'plain': steps['plain'], CONTROL: steps['plain'], operator: steps[operator]}
    # Each form is called once a repeat, whatever it takes: all processes have to make the same calls.
    times = interleaved(steps, args.repeats, seconds=0)
    sent = {name: count() for name, (_, _, count) in networks.items()}
    kept = {name: kept_bytes(model, optimizer) for name, (model, optimizer, _) in networks.items()}
    if record is None:
        return
    case = f'{args.network} b{args.batch} {args.size} {wrap.__name__} x{args.processes}'
    control = ratio(times, CONTROL, 'plain').median
    for name in steps:
        seconds = statistics.median(times[name])
        record.add(f'{case}, step', name, ratio(times, name, 'plain'), control, seconds=seconds)
    for quantity, figures in (('sent', sent), ('kept', kept)):
        share = figures[operator] / figures['plain']
        plain = figures['plain']
        record.add(
            f'{case}, {quantity}', operator, Ratio(share, share, share), bytes=figures[operator], plain_bytes=plain
        )


def build(operator: str, args: argparse.Namespace) -> Any:
    """Return the network, with an operator unless its name is empty."""
    import torch
    import torchvision

    import mmkerv
    from mmkerv.engine.config.operator_spec import parse_operator

    torch.manual_seed(0)
    model = getattr(torchvision.models, args.network)()
    if operator:
        spec = parse_operator(operator)
        mmkerv.convert(model, dict(type=spec.operator, **spec.options), spec.where or None)
    return model.to(args.device)


def replicated(model: Any, args: argparse.Namespace) -> tuple[Any, Any, Callable[[], int]]:
    """Return a network under DistributedDataParallel, its optimizer, and a function that counts the bytes of a step."""
    import torch
    from torch.distributed import GradBucket
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    buffers = sum(buffer.nbytes for buffer in model.buffers())
    model = DistributedDataParallel(model, device_ids=None if args.device == 'cpu' else [args.device])
    sizes: list[int] = []

    # DistributedDataParallel reads the types of the hook.
    def hook(group: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        sizes.append(bucket.buffer().nbytes)
        return allreduce_hook(group, bucket)

    model.register_comm_hook(None, hook)
    optimizer = sgd(model)

    def count() -> int:
        sizes.clear()
        step(model, optimizer, args)
        return sum(sizes) + buffers

    return model, optimizer, count


def sharded(model: Any, args: argparse.Namespace) -> tuple[Any, Any, Callable[[], int]]:
    """Return a network with its parameters spread over the processes, its optimizer, and a function as above."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = sum(parameter.nbytes for parameter in model.parameters())
    mesh = init_device_mesh(args.device.partition(':')[0], (args.processes,))
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, sgd(model), lambda: 3 * whole


def sgd(model: Any) -> Any:
    """Return SGD with momentum and learning rate 0, so that no network diverges on noise while it is timed."""
    import torch

    return torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)


def step(model: Any, optimizer: Any, args: argparse.Namespace) -> None:
    """Take a step on synthetic images, and wait for the other processes."""
    import torch
    import torch.distributed as dist

    x = torch.ones(args.batch, 3, args.size, args.size, device=args.device)
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    dist.barrier()


def kept_bytes(model: Any, optimizer: Any) -> int:
    """Return the bytes of parameters, buffers and the optimizer's state that a process keeps between two steps."""
    import torch

    def size(tensor: torch.Tensor) -> int:
        return (tensor.to_local() if hasattr(tensor, 'to_local') else tensor).nbytes

    state = [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
    return sum(size(tensor) for tensor in (*model.parameters(), *model.buffers(), *state))


if __name__ == '__main__':
    main()
