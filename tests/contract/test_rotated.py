"""Rotated detection by mmrotate: configs, tools and folding, in the scope mmrotate."""

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmrotate', reason="mmrotate is not installed: pip install 'mmkerv[rotate]'")
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmkerv.models import LSKBlock
from mmkerv.ops import CoCConv2d
from tests.contract.backbones import build
from tests.contract.conftest import ROOT
from tests.contract.test_main_job import perturbed

UPSTREAM = 'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py'


@pytest.fixture(scope='module')
def rotated_shapes(tmp_path_factory) -> Path:
    from mmkerv.datasets.shapes import ShapesSettings, write_shapes

    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, ShapesSettings(num_train=4, num_val=2, size=96, layouts=('dota',)), progress=False)
    return root / 'DOTA'


@pytest.fixture(scope='module')
def small(rotated_shapes, tmp_path_factory):
    """Function that writes a config of ours for the shapes, 96 x 96 pixels, two iterations."""

    def small(name: str) -> Path:
        path = tmp_path_factory.mktemp('configs') / f'{name}_shapes.py'
        loader = 'dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, metainfo=names, {}))'
        data = "ann_file='{0}/labelTxt/', data_prefix=dict(img_path='{0}/images/')"
        path.write_text(
            f"_base_ = '{ROOT}/configs/{name}.py'\n"
            f"data_root = '{rotated_shapes}/'\n"
            "names = dict(classes=('circle', 'rectangle', 'triangle'))\n"
            'model = dict(backbone=dict(init_cfg=None), roi_head=dict(bbox_head=dict(num_classes=3)))\n'
            # Suppression of rotated boxes takes time that grows with the square of their number.
            'few = dict(nms_pre=60, max_per_img=30)\n'
            'model.update(train_cfg=dict(rpn_proposal=few), test_cfg=dict(rpn=few))\n'
            f'train_dataloader = {loader.format(data.format("train"))}\n'
            f'val_dataloader = {loader.format(data.format("val"))}\n'
            f'test_dataloader = {loader.format(data.format("val"))}\n'
            'train_cfg = dict(max_epochs=1)\n'
            'default_hooks = dict(logger=dict(interval=1))\n'
        )
        return path

    return small


RESIZE = {'train': 3, 'val': 1, 'test': 1}
SCALE = [f'{loader}_dataloader.dataset.pipeline.{i}.scale=(96,96)' for loader, i in RESIZE.items()]


def train(name, small, run, work_dir, *flags) -> tuple[Path, torch.nn.Module]:
    """Train two iterations by our tool; return the config, and the model with the weights of the checkpoint."""
    config = small(name)
    log = run('tools/train.py', config, '--work-dir', work_dir, *flags, '--cfg-options', *SCALE)
    assert 'Epoch(train) [1][2/2]' in log and 'loss: nan' not in log
    # mmrotate's evaluation starts four processes, each of which imports everything: only one test evaluates.
    assert ('dota/mAP' in log) == (not flags)
    init_default_scope('mmrotate')
    model = MODELS.build(Config.fromfile(config).model)
    missing, unexpected = model.load_state_dict(
        torch.load(work_dir / 'epoch_1.pth', weights_only=False)['state_dict'], strict=False
    )
    assert not missing and not unexpected
    return config, model


@pytest.mark.slow
def test_lsknet_trains_and_is_evaluated(small, run, tmp_path):
    _, model = train('oriented_rcnn_lsknet_t', small, run, tmp_path)
    assert sum(isinstance(m, LSKBlock) for m in model.backbone.modules()) == 13


@pytest.mark.slow
def test_operators_train_and_fold(small, run, tmp_path):
    config, model = train('oriented_rcnn_r50_coc', small, run, tmp_path, '--no-validate')
    assert sum(isinstance(m, CoCConv2d) for m in model.modules()) == 17
    moved = perturbed(tmp_path / 'epoch_1.pth', tmp_path / 'moved.pth')
    fold = ['tools/model_converters/reparameterize_model.py', config, moved, tmp_path / 'deploy.pth', '--shape', 96, 96]
    log = run(*fold, '--cfg-options', *SCALE)
    assert float(log.partition('folded operators: ')[2].split()[0]) >= 0.3
    assert float(log.partition(', relative: ')[2].split()[0]) <= 1e-4
    assert 'mmkerv' not in (tmp_path / 'deploy.py').read_text()
    deployed = MODELS.build(Config.fromfile(tmp_path / 'deploy.py').model)
    deployed.load_state_dict(torch.load(tmp_path / 'deploy.pth', weights_only=False)['state_dict'])


def test_backbones_are_mmdetections():
    net = build('mmrotate', {'type': 'mmkerv.ResNet', 'depth': 18}, conv_cfg={'type': 'CoCConv'})
    assert type(net).__mro__[1].__module__.startswith('mmdet.')
    assert sum(isinstance(m, CoCConv2d) for m in net.modules()) == 17


def test_package_configs_resolve(tmp_path):
    (tmp_path / 'mine.py').write_text(f"_base_ = '{UPSTREAM}'\nmodel = dict(backbone=dict(depth=18))\n")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.default_scope == 'mmrotate' and cfg.model.backbone.depth == 18
