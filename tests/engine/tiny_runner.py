"""A network of one operator, random data and a real runner of mmengine around them, on the CPU."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmkerv.ops import CoCConv

_numbers = itertools.count()


class RandomImages(Dataset):
    """Four images with their means as targets."""

    def __init__(self, length: int = 4):
        self.images = torch.randn(length, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {'inputs': self.images[index], 'target': self.images[index].mean()}


class TinyModel(BaseModel):
    """CoCConv, batch norm and mean; ``conv=nn.Conv2d`` gives the plain network with the same parameter names."""

    def __init__(self, conv: Any = CoCConv, **options: Any):
        super().__init__()
        torch.manual_seed(0)
        self.conv = conv(3, 8, 3, padding=1, **options)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, inputs: Tensor, target: Tensor | None = None, mode: str = 'tensor') -> Any:
        outputs = self.norm(self.conv(inputs)).relu().mean(dim=(1, 2, 3))
        if mode == 'loss':
            return {'loss': (outputs - target).square().mean()}
        return list(outputs) if mode == 'predict' else outputs


class Predictions(BaseMetric):
    """Metric that keeps the predictions; ``seen`` has one list for each evaluation."""

    def __init__(self, fail: bool = False):
        super().__init__()
        self.seen, self.fail = [], fail

    def process(self, data_batch: Any, data_samples: Sequence[Tensor]) -> None:
        if self.fail:
            raise ArithmeticError('the metric failed')
        self.results.extend(map(float, data_samples))

    def compute_metrics(self, results: list) -> dict:
        self.seen.append(list(results))
        return {'mean': sum(results) / len(results)}


def tiny_runner(
    work_dir: Path,
    model: BaseModel | None = None,
    metric: Predictions | None = None,
    kind: type[Runner] = Runner,
    **kwargs: Any,
) -> Runner:
    """Build a runner with two batches of two per epoch and an evaluation after each epoch."""
    loader = {
        'dataset': RandomImages(),
        'batch_size': 2,
        'num_workers': 0,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'collate_fn': {'type': 'default_collate'},
    }
    settings = {
        'train_dataloader': loader,
        'val_dataloader': loader,
        'train_cfg': {'by_epoch': True, 'max_epochs': 1, 'val_interval': 1},
        'val_cfg': {},
        'val_evaluator': [metric or Predictions()],
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        'param_scheduler': [{'type': 'MultiStepLR', 'milestones': [8, 11], 'gamma': 0.1}],
        'randomness': {'seed': 0},
        'experiment_name': f'tiny{next(_numbers)}',
        **kwargs,
    }
    return kind(model=model or TinyModel(), work_dir=str(work_dir), **settings)
