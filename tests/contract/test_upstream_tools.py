"""Tools of OpenMMLab that read convolutions, on our networks: correct, or refused with advice."""

import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.ops.contract import relative

pytest.importorskip('mmengine')
pytest.importorskip('mmcv')
from mmcv.cnn import ConvModule, fuse_conv_bn

from mmkerv.ops import CoCConv2d, KervConv2d, switch_to_deploy
from tests.contract.backbones import BACKBONES, build, flat

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = {'CoCConv': {'super_init': 'kaiming'}, 'KervConv': {'kernel': 'sigmoid'}, 'CKConv': {}}


@torch.no_grad()
def as_trained(model: nn.Module) -> nn.Module:
    """Give the norms random statistics: a fresh norm changes almost nothing."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.uniform_(0.5, 1.5)
            m.bias.normal_(std=0.1)
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize('operator', OPERATORS)
@pytest.mark.parametrize('family', BACKBONES)
def test_fuse_conv_bn_is_right_on_every_advertised_backbone(family, operator):
    cfg = {**BACKBONES[family], 'type': f'mmkerv.{family}'}
    # Some layers stay plain, so that there are norms to fuse.
    where = {'kernel_sizes': '>1'}
    net = as_trained(build('mmpretrain', cfg, conv_cfg={'type': operator, **OPERATORS[operator]}, where=where))
    x = torch.randn(2, 3, 64, 64)
    fused = fuse_conv_bn(copy.deepcopy(net))
    assert 0 < norms(fused) < norms(net), 'the norms of operators stay'
    for a, b in zip(flat(fused(x)), flat(net(x)), strict=True):
        assert relative(a, b) < 1e-4
    if operator == 'KervConv':
        return
    switch_to_deploy(net)
    fused = fuse_conv_bn(copy.deepcopy(net))
    assert norms(fused) == 0
    for a, b in zip(flat(fused(x)), flat(net(x)), strict=True):
        assert relative(a, b) < 1e-4


@pytest.mark.parametrize('make', [CoCConv2d, KervConv2d])
def test_a_norm_behind_a_convolution_and_an_operator_misleads_fuse_conv_bn(make):
    """The defect of mmcv that docs/upstream.md shows; our tool refuses such a model."""
    from mmkerv.analysis.speed import fused
    from mmkerv.errors import ConfigError

    torch.manual_seed(0)
    net = as_trained(nn.Sequential(nn.Conv2d(3, 4, 3), make(4, 4, 3), nn.BatchNorm2d(4))).eval()
    x = torch.randn(1, 3, 9, 9)
    assert relative(fuse_conv_bn(copy.deepcopy(net))(x), net(x)) > 1e-2, 'mmcv has fixed it: drop the refusal'
    with pytest.raises(ConfigError, match=r'not folded, such as 1 \('):
        fused(net)
    if make is CoCConv2d:
        switch_to_deploy(net)
        assert relative(fused(copy.deepcopy(net))(x), net(x)) < 1e-5


@pytest.mark.parametrize('operator', OPERATORS)
def test_efficient_conv_bn_eval_is_refused_with_advice(operator):
    conv_cfg = {'type': operator, **OPERATORS[operator]}
    settings = {'padding': 1, 'norm_cfg': {'type': 'BN'}, 'efficient_conv_bn_eval': True}
    module = as_trained(ConvModule(3, 4, 3, conv_cfg=conv_cfg, **settings)).train()
    module.bn.eval()
    x, folded = torch.randn(1, 3, 9, 9), copy.deepcopy(module)
    expected = module.activate(module.bn(module.conv(x)))
    # It has no weight that could be mistaken for the kernel.
    error = RuntimeError if operator != 'CKConv' else (AttributeError, RuntimeError, TypeError)
    advice = {'CoCConv': 'switch_to_deploy', 'KervConv': 'Leave efficient_conv_bn_eval off'}.get(operator)
    with pytest.raises(error, match=advice):
        module(x)
    if operator != 'KervConv':
        switch_to_deploy(folded)
        assert relative(folded(x), expected) < 1e-4


def upstream(package: str, tool: str) -> Path:
    if find_spec(package) is None:
        pytest.skip(f'{package} is not installed')
    path = Path(find_spec(package).origin).parent / '.mim' / 'tools' / tool
    if not path.is_file():
        pytest.skip(f'{package} came without its tools')
    return path


def run(script: Path, *arguments: object, cwd: Path = ROOT) -> str:
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.long
def test_mmpretrains_flops(tmp_path):
    tool = upstream('mmpretrain', 'analysis_tools/get_flops.py')
    flops = {}
    for name in ('resnet18_shapes', 'resnet18_coc_shapes'):
        text = run(tool, ROOT / 'configs' / 'demo' / f'{name}.py', '--shape', 64)
        flops[name] = float(next(line for line in text.splitlines() if line.startswith('Flops')).split()[1][:-1])
    # The count includes the generation of kernels.
    assert flops['resnet18_shapes'] <= flops['resnet18_coc_shapes'] < 1.5 * flops['resnet18_shapes']


@pytest.mark.long
def test_mmdets_flops(shapes):
    tool = upstream('mmdet', 'analysis_tools/get_flops.py')
    flops = {}
    for name in ('retinanet_shapes', 'retinanet_coc_shapes'):
        options = '--num-images', 1, '--cfg-options', f'val_dataloader.dataset.data_root={shapes}'
        text = run(tool, f'configs/demo/{name}.py', *options)
        flops[name] = float(next(line for line in text.splitlines() if line.startswith('Flops')).split()[1][:-1])
    assert flops['retinanet_shapes'] <= flops['retinanet_coc_shapes'] < 1.5 * flops['retinanet_shapes']


@pytest.mark.slow
@pytest.mark.parametrize('task', ['inference', 'dataset'])
def test_mmdets_benchmark(task, trained, tmp_path):
    if task == 'inference' and not torch.cuda.is_available():
        pytest.skip("mmdet's inference benchmark needs a GPU; tools/analysis_tools/benchmark.py does not")
    text = run(
        upstream('mmdet', 'analysis_tools/benchmark.py'),
        trained / 'retinanet_coc_shapes.py',
        *('--checkpoint', next(trained.glob('*.pth'))) * (task == 'inference'),
        *('--task', task, '--max-iter', 2, '--num-warmup', 1, '--log-interval', 1, '--work-dir', tmp_path),
    )
    assert 'fps' in text
