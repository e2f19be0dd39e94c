"""Training run of the study: a config, a setting of the options that the paper leaves open, and a seed."""

import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmkerv.ops import KervConv2d
from mmkerv.ops.kerv import find_kernel

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'mnist'
# Test accuracy (%) whose first iteration is recorded.
TARGET = 98.0
# A run with a test accuracy (%) below LEARNS after PATIENCE epochs is stopped, as it does not learn.
PATIENCE, LEARNS = 4, 20.0
# Epochs after which the interval between evaluations is SPARSER times as long.
CLOSE, SPARSER = 6, 6


class Setting(NamedTuple):
    """Options that the paper leaves open.

    Args:
        scale: ``'01'`` or ``'std'``, see :func:`mnist.data.load`.
        norm: ``'BN'`` between kernel and activation, or ``None``.
        init: ``'torch'``, or ``'patches'``, which initialises the filters of kernels of a distance with patches of
            their layer's input.
        gamma: replaces the config's, where the kernel has one.
        factor: what the response of a distance is multiplied by; the paper's distances are positive, its authors' code
            has negative ones.
        places: ``'both'``, or the layer that alone is a kervolution: ``'first'`` or ``'second'``.
        activation: whether an activation follows a distance.
        rate: what the paper's learning rate is multiplied by.
    """

    scale: str = '01'
    norm: str | None = None
    init: str = 'torch'
    gamma: float | str | None = None
    factor: float = 1.0
    places: str = 'both'
    activation: bool = True
    rate: float = 1.0

    def __str__(self) -> str:
        changed = {key: value for key, value in self._asdict().items() if value != self._field_defaults[key]}
        named = [f'{key}={changed[key]:g}' for key in ('factor', 'rate') if key in changed]
        parts = [
            *(self.scale, self.norm, changed.get('init'), self.gamma and f'gamma={self.gamma}'),
            *(changed.get('places'), None if self.activation else 'no activation', *named),
        ]
        return '+'.join(part for part in parts if part)


def build(config: str, setting: Setting, sample: Tensor) -> nn.Module:
    """Build the network of ``configs/mnist/{config}.py`` with a setting; patches are taken from images ``sample``."""
    init_default_scope('mmpretrain')
    model_cfg = Config.fromfile(CONFIGS / f'{config}.py').model
    backbone = model_cfg.backbone
    if setting.norm:
        backbone.norm_cfg = dict(type=setting.norm)
    for layer in backbone.get('layers') or ():
        if layer and setting.gamma is not None:
            kernel = find_kernel(layer.get('kernel', 'polynomial'))
            if 'gamma' in kernel.hyperparameters:
                layer['gamma'] = setting.gamma
    if setting.places != 'both':
        first, second = backbone.layers
        backbone.layers = (first, None) if setting.places == 'first' else (None, second)
    model = MODELS.build(model_cfg)
    for stage in (model.backbone.layer1, model.backbone.layer2):
        if is_distance(stage[0]):
            if setting.factor != 1.0:
                stage[0].register_forward_hook(lambda conv, inputs, y: setting.factor * y)
            if not setting.activation:
                stage[-2] = nn.Identity()
    if setting.init == 'patches':
        start_from_patches(model, sample)
    return model


def is_distance(module: nn.Module) -> bool:
    """Return whether a layer is a kervolution whose kernel is a function of a distance."""
    return isinstance(module, KervConv2d) and find_kernel(module.kernel_name).family != 'dot'


@torch.no_grad()
def start_from_patches(model: nn.Module, sample: Tensor) -> None:
    """Set the filters of each kernel of a distance to patches of its input, drawn without replacement."""

    def draw(conv: KervConv2d, inputs: tuple[Tensor]) -> None:
        patches = nn.functional.unfold(inputs[0], conv.kernel_size, 1, conv.padding).transpose(1, 2).flatten(0, 1)
        varied = patches[patches.std(1) > 0.5 * patches.std()]
        rows = torch.randperm(len(varied))[: conv.out_channels]
        conv.weight.copy_(varied[rows].view_as(conv.weight))

    for module in list(model.modules()):
        if is_distance(module):
            with module.register_forward_pre_hook(draw):
                model.eval()(sample, mode='tensor')


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Return the percentage of images that ``model`` classifies correctly."""
    model.eval()
    right = sum(
        (model(x, mode='tensor').argmax(1) == y).sum() for x, y in zip(images.split(batch), labels.split(batch))
    )
    model.train()
    return 100 * float(right) / len(labels)


def train(
    config: str,
    setting: Setting,
    seed: int,
    data: dict[str, tuple[Tensor, Tensor]],
    *,
    epochs: int | None = None,
    every: int = 100,
    tell: Callable[[str], None] = print,
) -> tuple[dict[str, Any], nn.Module]:
    """Train by the config on the device of ``data``; return the record and the network.

    Test accuracy is measured after each epoch and, until it has reached ``TARGET``, every ``every`` iterations, or
    ``SPARSER`` times as many after ``CLOSE`` epochs. ``best`` is the best accuracy after an epoch. ``seconds`` is the
    time of the training steps: CPU time of this single-threaded process, or wall time on a GPU.
    """
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    torch.manual_seed(seed)
    (images, labels), test = data['train'], data['test']
    device = images.device
    # On a CPU, channels_last makes pooling faster and batch norm much slower.
    layout = torch.contiguous_format if setting.norm else torch.channels_last
    model = build(config, setting, images[:500].cpu()).to(device, memory_format=layout)
    images = images.to(memory_format=layout)
    arguments = {k: v for k, v in cfg.optim_wrapper.optimizer.items() if k != 'type'}
    optimizer = torch.optim.SGD(model.parameters(), **arguments | {'lr': setting.rate * arguments['lr']})
    steps = cfg.param_scheduler
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, steps.milestones, steps.gamma)
    batch, epochs = cfg.train_dataloader.batch_size, epochs or cfg.train_cfg.max_epochs
    record = {'config': config, 'setting': setting._asdict(), 'seed': seed, 'epochs': epochs, 'curve': [], 'ends': []}
    record['machine'] = machine(device)
    record |= {'to_target': None, 'diverged': None, 'hopeless': False, 'device': str(device)}
    clock, seconds, iteration = _clock(device), 0.0, 0
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images)).to(device)
        for rows in order.split(batch):
            start = clock()
            loss = nn.functional.cross_entropy(model(images[rows], mode='tensor'), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds += clock() - start
            iteration += 1
            if iteration % (every if epoch < CLOSE else SPARSER * every) == 0:
                # Not in every iteration, because it synchronises a GPU.
                if not torch.isfinite(loss):
                    record['diverged'] = iteration
                    break
                if record['to_target'] is None:
                    _note(record, iteration, seconds, accuracy(model, *test))
        if record['diverged']:
            break
        scheduler.step()
        end = accuracy(model, *test)
        record['ends'].append(end)
        if not record['curve'] or record['curve'][-1][0] != iteration:
            _note(record, iteration, seconds, end)
        if epoch + 1 == PATIENCE and max(record['ends']) < LEARNS:
            record['hopeless'] = True
            break
        tell(
            f'{config} [{setting}] seed {seed}: epoch {epoch + 1} of {epochs}, loss {loss:.4f}, test accuracy {end:.2f}'
        )
    record |= {'best': max(record['ends'], default=None), 'seconds': seconds, 'iterations': iteration}
    return record, model


def machine(device: torch.device) -> str:
    """Return date, hardware and versions."""
    if device.type == 'cuda':
        hardware = torch.cuda.get_device_name(device)
    else:
        cpus = Path('/proc/cpuinfo')
        names = [line for line in cpus.read_text().splitlines() if 'model name' in line] if cpus.exists() else []
        hardware = f'{names[0].split(":")[1].strip() if names else platform.processor()}, one thread a run'
    return f'{date.today()}, {hardware}, torch {torch.__version__}, Python {platform.python_version()}'


def _note(record: dict[str, Any], iteration: int, seconds: float, value: float) -> None:
    record['curve'].append([iteration, round(seconds, 2), value])
    if value >= TARGET and record['to_target'] is None:
        record['to_target'] = {'iteration': iteration, 'seconds': seconds}


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type != 'cuda':
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock
