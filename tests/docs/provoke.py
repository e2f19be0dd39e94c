"""Functions that provoke the messages quoted in docs/troubleshooting.md and return them."""

import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PROVOKED: dict[str, Callable[[Path], str]] = {}


def message(function: Callable, *args: Any, **kwargs: Any) -> str:
    """Return the message of the error that the call raises."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return str(error.args[0]) if isinstance(error, KeyError) else str(error)
    raise AssertionError('no error')


def provokes(function: Callable[[Path], str]) -> Callable[[Path], str]:
    """Register a function under its name."""
    PROVOKED[function.__name__] = function
    return function


def resnet() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))


def in_scope(scope: str, function: Callable[[], Any]) -> str:
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(scope):
        return message(function)


@provokes
def unregistered(folder: Path) -> str:
    import mmdet.registry  # noqa: F401
    from mmcv.cnn import build_conv_layer

    return in_scope('mmdet', lambda: build_conv_layer({'type': 'CoCConf'}, 3, 8, 3))


@provokes
def misspelt_operator(folder: Path) -> str:
    from mmkerv.engine.config.check import check_operators

    return message(check_operators, {'backbone': {'conv_cfg': {'type': 'CocConv'}}}, 'model', 'mmdet')


@provokes
def misspelt_key(folder: Path) -> str:
    from mmengine.config import Config

    from mmkerv.engine.config.check_model import check_model

    backbone = {'type': 'ResNet', 'depth': 18, 'conv_cgf': {'type': 'CoCConv'}}
    model = {'type': 'RetinaNet', 'backbone': backbone, 'neck': {'type': 'FPNN'}}
    return message(check_model, Config({'default_scope': 'mmdet', 'model': model}))


@provokes
def unknown_where(folder: Path) -> str:
    from mmkerv.engine.config.check import check_operators

    return message(check_operators, {'backbone': {'type': 'mmkerv.ResNet', 'where': {'stage': (2, 3)}}}, 'model')


@provokes
def even_in_a_head(folder: Path) -> str:
    pytest.importorskip('mmseg')
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    from mmkerv.engine.config.build_errors import described

    head = {'type': 'FCNHead', 'in_channels': 8, 'channels': 8, 'num_classes': 2, 'kernel_size': 2}
    cfg = Config({'model': {'decode_head': {**head, 'conv_cfg': {'type': 'CoCConv'}}}})
    with DefaultScope.overwrite_default_scope('mmseg'):
        try:
            MODELS.build(cfg.model.decode_head)
        except ValueError as error:
            return described(error)
    raise AssertionError('no error')


@provokes
def other_classes(folder: Path) -> str:
    from types import SimpleNamespace

    from mmkerv.engine.data_checks.label_range_hook import LabelRangeHook

    class CocoDataset(list):
        metainfo = {'classes': ('cat', 'dog')}

    model = nn.ModuleDict({'bbox_head': nn.Identity()})
    model['bbox_head'].num_classes = 80
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=CocoDataset([1])))
    return message(LabelRangeHook().before_train, SimpleNamespace(train_loop=loop, model=model))


@provokes
def folded_for_training(folder: Path) -> str:
    from mmkerv.engine import require_match
    from mmkerv.ops import CoCConv2d

    (folder / 'deploy.py').touch()
    model = nn.Sequential(CoCConv2d(3, 8, 3, super_init='kaiming'))
    return message(require_match, model, nn.Sequential(nn.Conv2d(3, 8, 3)).state_dict(), str(folder / 'deploy.pth'))


@provokes
def not_active(folder: Path) -> str:
    from unittest.mock import patch

    from mmkerv import env
    from mmkerv.install_advice import Problem

    found = [Problem('torch is not installed', ''), Problem('not installed: mmengine, mmcv. Two distributions', '')]
    absent, beside = {'return_value': False}, {'return_value': folder / '.venv'}
    with (
        patch.object(env, 'problems', return_value=found),
        patch.object(env.distributions, 'importable', **absent),
        patch.object(env, 'environment_beside', **beside),
    ):
        return message(env.require, 'mmengine', 'mmcv')


@provokes
def namespace_package(folder: Path) -> str:
    (folder / 'mmkerv').mkdir()
    # -S hides what is installed here, -E what PYTHONPATH adds.
    words = [sys.executable, '-ES', '-c', 'import mmkerv; mmkerv.convert']
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    return done.stderr.strip().splitlines()[-1].partition(': ')[2]


def without_mmkerv(folder: Path, base: str) -> str:
    """Return the message of mmengine for a config with this base, read without importing mmkerv."""
    config = folder / 'mine.py'
    config.write_text(f'_base_ = {base!r}\n')
    code = f'from mmengine.config import Config; Config.fromfile({str(config)!r})'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1].partition(': ')[2]


@provokes
def package_base(folder: Path) -> str:
    return without_mmkerv(folder, 'mmkerv::retinanet_r50_coc.py')


@provokes
def package_folder(folder: Path) -> str:
    return without_mmkerv(folder, 'mmkerv::demo/retinanet_coc_shapes.py')


@provokes
def weights_only(folder: Path) -> str:
    from mmengine.logging import HistoryBuffer

    torch.save({'message_hub': HistoryBuffer()}, folder / 'a.pth')
    return message(torch.load, folder / 'a.pth', weights_only=True).splitlines()[0]


@provokes
def default_scope(folder: Path) -> str:
    from mmengine.registry import MODELS

    return in_scope('mmkerv', lambda: MODELS.build({'type': 'RetinaNet'}))


@provokes
def mixture(folder: Path) -> str:
    from mmkerv.distributions import Package
    from mmkerv.install_advice import mixture as problem

    both = [Package('onedl-mmengine', '0.10.12', 'mmengine', 'onedl'), Package('mmdet', '3.3.0', 'mmdet', 'openmmlab')]
    return problem(both).what


@provokes
def no_compiled_operators(folder: Path) -> str:
    from mmkerv.install_advice import unusable_mmcv

    return unusable_mmcv('missing: mmcv was built without them', []).what


@provokes
def mmcv_for_other_gpu(folder: Path) -> str:
    from mmkerv.gpus import GPU
    from mmkerv.install_advice import mmcv_for_other_devices

    return mmcv_for_other_devices([GPU('NVIDIA H200', (9, 0))], ['sm_80'], []).what


@provokes
def damaged_wheel(folder: Path) -> str:
    script = Path(__file__).parents[2] / 'requirements' / 'mmcv_build.py'
    check_wheel = runpy.run_path(str(script))['check_wheel']
    wheel = folder / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl'
    wheel.write_bytes(b'cut off')
    return message(check_wheel, wheel, 'key', 'onedl-mmcv==2.3.6')


@provokes
def unknown_argument(folder: Path) -> str:
    from mmkerv.engine.config.check import check_operators

    return message(check_operators, {'backbone': {'conv_cfg': {'type': 'CoCConv', 'asociation': 3}}}, 'model')


@provokes
def scope_in_conv_cfg(folder: Path) -> str:
    from mmkerv.ops import CoCConv

    return message(CoCConv, 3, 8, 3, _scope_='mmdet')


@provokes
def kernel_size(folder: Path) -> str:
    from mmkerv.engine.config.check import check_operators

    return message(check_operators, {'backbone': {'conv_cfg': {'type': 'CKConv', 'kernel_size': 7}}}, 'model')


@provokes
def even_kernel(folder: Path) -> str:
    from mmkerv.ops import CoCConv

    return message(CoCConv, 3, 8, 2)


@provokes
def unknown_kernel(folder: Path) -> str:
    from mmkerv.ops import KervConv

    return message(KervConv, 3, 8, 3, kernel='gausian')


@provokes
def nothing_replaced(folder: Path) -> str:
    import mmkerv

    return message(mmkerv.convert, resnet(), {'type': 'CoCConv'}, {'kernel_sizes': [7]})


@provokes
def no_stages(folder: Path) -> str:
    import mmkerv

    return message(mmkerv.convert, resnet(), {'type': 'CoCConv'}, {'stages': (1,)})


@provokes
def layer_refuses(folder: Path) -> str:
    import mmkerv

    return message(mmkerv.convert, nn.Sequential(nn.Conv2d(3, 8, 2)), {'type': 'CoCConv'}, {'kernel_sizes': [2]})


@provokes
def no_scope(folder: Path) -> str:
    from mmkerv.models.upstream_backbones import find_library

    return in_scope('mmengine', lambda: find_library('ResNet'))


@provokes
def map_too_small(folder: Path) -> str:
    from mmkerv.ops import KervConv

    return message(KervConv(3, 8, 7, kernel='l1'), torch.zeros(1, 3, 5, 5))


@provokes
def missing_data(folder: Path) -> str:
    from mmengine.config import Config

    from mmkerv.engine.config.check import check_data

    return message(
        check_data,
        Config({'train_dataloader': {'dataset': {'type': 'CocoDataset', 'data_root': 'data/absent/'}}}),
        'train',
    )


@provokes
def missing_checkpoint(folder: Path) -> str:
    from mmkerv.engine import safe_load

    return message(safe_load, 'epoch_12.pth')


@provokes
def unsafe_checkpoint(folder: Path) -> str:
    from mmkerv.engine import safe_load

    (folder / 'a.pth').write_text('no checkpoint')
    return message(safe_load, folder / 'a.pth')


@provokes
def other_network(folder: Path) -> str:
    from mmkerv.engine import require_match

    return message(require_match, resnet(), {'fc.weight': torch.ones(1)}, 'epoch_12.pth')


@provokes
def plain_for_moved(folder: Path) -> str:
    from mmkerv.engine import require_match
    from mmkerv.ops import CoCConv2d

    model = nn.Sequential(CoCConv2d(3, 8, 3, super_init='kaiming'))
    return message(require_match, model, nn.Sequential(nn.Conv2d(3, 8, 3)).state_dict(), 'epoch_12.pth')


@provokes
def frozen_at_random(folder: Path) -> str:
    from types import SimpleNamespace

    from mmkerv.engine import CheckFrozenOperatorsHook
    from mmkerv.ops import CoCConv2d

    model = nn.Sequential(CoCConv2d(3, 8, 3, super_init='kaiming')).requires_grad_(False)
    return message(CheckFrozenOperatorsHook().before_train, SimpleNamespace(model=model))


@provokes
def efficient_conv_bn_eval(folder: Path) -> str:
    from mmkerv.ops import CoCConv2d

    layer = CoCConv2d(3, 8, 3)
    return message(layer._conv_forward, torch.zeros(1, 3, 5, 5), layer.weight, None)


@provokes
def trained_while_frozen(folder: Path) -> str:
    from mmkerv.ops import CoCConv2d, frozen_kernels

    model = nn.Sequential(CoCConv2d(3, 8, 3))
    with frozen_kernels(model):
        return message(model, torch.zeros(1, 3, 5, 5))


@provokes
def evaluated_unfrozen(folder: Path) -> str:
    from mmkerv.ops import CoCConv2d
    from mmkerv.ops.core import generated

    generated.warn_of_evaluations.cache_clear()
    model = CoCConv2d(3, 8, 3).eval()
    with torch.no_grad(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        for _ in range(generated.MANY_EVALUATIONS):
            model(torch.zeros(1, 3, 3, 3))
    return str(seen[0].message)


@provokes
def loaded_while_frozen(folder: Path) -> str:
    from mmkerv.ops import CoCConv2d, frozen_kernels

    model = nn.Sequential(CoCConv2d(3, 8, 3))
    with frozen_kernels(model):
        return message(model.load_state_dict, model.state_dict())


@provokes
def single_operator(folder: Path) -> str:
    from mmkerv.ops import CoCConv2d, switch_to_deploy

    return message(switch_to_deploy, CoCConv2d(3, 8, 3))


@provokes
def kept_by_folding(folder: Path) -> str:
    from mmkerv.ops import KervConv2d, switch_to_deploy

    return str(switch_to_deploy(nn.Sequential(KervConv2d(3, 8, 3))))


@provokes
def nothing_to_regularise(folder: Path) -> str:
    from types import SimpleNamespace

    from mmkerv.engine import KernelL2Hook

    return message(KernelL2Hook(1e-4).before_train, SimpleNamespace(model=nn.Linear(2, 2)))


@provokes
def overflow(folder: Path) -> str:
    from types import SimpleNamespace

    from mmkerv.engine import KervolutionGuardHook
    from mmkerv.ops import KervConv2d

    model = nn.Sequential(KervConv2d(3, 8, 3, degree=9))
    hook, runner = KervolutionGuardHook(), SimpleNamespace(model=model, iter=120)
    hook.before_train(runner)
    hook.before_train_iter(runner, 120)
    model(torch.full((1, 3, 5, 5), 1e30))
    return message(hook.after_train_iter, runner, 120)


@provokes
def dead_filters(folder: Path) -> str:
    from types import SimpleNamespace

    from mmkerv.engine import KervolutionGuardHook
    from mmkerv.ops import KervConv2d

    model = nn.Sequential(KervConv2d(64, 8, 3, kernel='gaussian', gamma=1.0))
    hook, runner = KervolutionGuardHook(), SimpleNamespace(model=model, iter=0)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    model(torch.randn(1, 64, 5, 5))
    return message(hook.after_train_iter, runner, 0)


@provokes
def explosion(folder: Path) -> str:
    from types import SimpleNamespace

    from mmkerv.engine import LossGuardHook

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(3, 2))
    hook, runner = LossGuardHook(), SimpleNamespace(model=model, iter=120)
    hook.before_train_iter(runner, 120)
    model(torch.full((1, 3, 5, 5), float('inf')))
    return message(hook.after_train_iter, runner, 120, None, {'loss': torch.tensor(float('nan'))})


@provokes
def taken_name(folder: Path) -> str:
    from mmkerv.ops import register_kernel

    return message(register_kernel('gaussian', family='radial'), lambda d2: d2)


@provokes
def slurm_without_gpu(folder: Path) -> str:
    from mmengine.config import Config

    from mmkerv.engine.config.launch import process_group

    return message(lambda: process_group(Config({'launcher': 'slurm', 'model': {}})).__enter__())


@provokes
def unknown_layer(folder: Path) -> str:
    from mmkerv.models.layers import find_layers

    return message(find_layers, nn.ModuleDict({'backbone': resnet()}), ['backbone.conv1'])


@provokes
def no_operator(folder: Path) -> str:
    from mmkerv.models.layers import find_operators

    return message(find_operators, resnet())


@provokes
def not_an_image(folder: Path) -> str:
    from mmengine.config import Config

    from mmkerv.deploy.trained_model import load_image

    (folder / 'a.jpg').write_text('no image')
    return message(load_image, resnet(), Config({}), folder / 'a.jpg')
