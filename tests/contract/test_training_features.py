"""Options of training: gradient accumulation, activation checkpointing, several machines, loader workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.contract.ranks import Network, batch, step
from tests.contract.test_distribution import alone, free_port, same
from tests.ops.catalogue import DISTRIBUTED

pytest.importorskip('mmpretrain')

from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope

import mmkerv  # noqa: F401
from tests.tools.bad_input import CONFIG

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('name', DISTRIBUTED)
def test_accumulated_gradients_are_those_of_the_whole_batch(name):
    model = Network(name)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    x, target = batch(model.dims)
    for _ in range(2):
        for half in (slice(0, 4), slice(4, 8)):
            with wrapper.optim_context(model):
                loss = (model(x[half]) - target[half]).square().mean()
            wrapper.update_params(loss)
    # As `alone` does: a forward pass puts parameters that a step has moved out of their limits back.
    model(x)
    same(model.state_dict(), alone(name)[2])


BACKBONES = {
    'coc': dict(type='CoCConv', super_init='kaiming'),
    'polynomial': dict(type='KervConv', kernel='polynomial', degree=2),
    'gaussian': dict(type='KervConv', kernel='gaussian'),
    'continuous': dict(type='CKConv', hidden=4),
}


@pytest.mark.parametrize('operator', BACKBONES)
def test_checkpointed_activations_give_the_same_gradients(operator):
    """``with_cp=True`` computes the blocks again in backward, kernels included."""
    init_default_scope('mmpretrain')
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        backbone = MODELS.build(
            dict(
                type='ResNet', depth=18, base_channels=8, stem_channels=8, with_cp=with_cp,
                conv_cfg=BACKBONES[operator], zero_init_residual=False,
            )
        )  # fmt: skip
        backbone.init_weights()
        backbone.double().train()
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        step(lambda_of(backbone), x, torch.zeros(()))
        gradients.append({name: p.grad for name, p in backbone.named_parameters()})
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients[0].values())
    same(gradients[1], gradients[0])


def lambda_of(backbone):
    """The mean of the last feature map as a module of the same parameters."""

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, x):
            return self.backbone(x)[-1].mean((2, 3))

    return Mean()


@pytest.fixture
def config(tmp_path) -> Path:
    """A small classifier on four pictures, trained for two epochs."""
    import mmcv
    import numpy as np

    pictures = np.random.default_rng(0)
    for kind in 'ab':
        for number in range(2):
            file = tmp_path / 'data' / kind / f'{number}.png'
            mmcv.imwrite(pictures.integers(0, 256, (64, 64, 3), np.uint8), str(file))
    text = CONFIG.format(data=str(tmp_path / 'data'), weights='')
    cfg = Config.fromstring(text, '.py')
    cfg.model.backbone.pop('init_cfg')
    cfg.model.head.num_classes = 2
    cfg.train_cfg.max_epochs = 2
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHON': sys.executable, **more}


@pytest.mark.long
def test_two_machines_train(config, tmp_path):
    """Start tools/dist_train.sh twice, as on two machines, connected by the loopback device."""
    port, runs = str(free_port()), []
    for node in range(2):
        command = [ROOT / 'tools' / 'dist_train.sh', config, '1', '--work-dir', tmp_path / 'work', '--no-validate']
        env = environment(NNODES='2', NODE_RANK=str(node), MASTER_ADDR='127.0.0.1', PORT=port)
        runs.append(
            subprocess.Popen(
                [str(part) for part in command], cwd=ROOT, env=env, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    logs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], logs[0][-3000:] + logs[1][-3000:]
    # Four pictures, one per step in each of two processes.
    assert 'Epoch(train) [2][2/2]' in logs[0]
    assert [file.name for file in (tmp_path / 'work').glob('epoch_2.pth')] == ['epoch_2.pth']


@pytest.mark.slow
@pytest.mark.parametrize('method', ['fork', pytest.param('spawn', marks=pytest.mark.long)])
def test_workers_of_the_data_loader(config, method, tmp_path):
    options = (f'env_cfg.mp_cfg.mp_start_method={method}', 'train_dataloader.num_workers=2')
    command = ['tools/train.py', config, '--work-dir', tmp_path / 'work', '--no-validate', '--cfg-options', *options]
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert 'Epoch(train) [2][4/4]' in done.stdout + done.stderr


@pytest.mark.parametrize('launcher', ['none', 'pytorch', 'slurm', 'mpi'])
def test_launchers_parse(launcher):
    from mmkerv.cli import common

    args = common.runner_arguments('').parse_args(['config.py', '--launcher', launcher, '--local-rank', '1'])
    assert (args.launcher, args.local_rank) == (launcher, 1)
