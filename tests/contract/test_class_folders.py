"""The classification configs from the command line, on class folders with some real images."""

import pytest
import torch

from tests.contract.conftest import ROOT

pytest.importorskip('mmpretrain')

import mmengine
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

WORKERS = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', 'test_dataloader.num_workers=0']


def some_folders(source, target, classes=3, images=8):
    """Link the first images of the first classes of train/ and val/; return the classes."""
    for split in ('train', 'val'):
        names = sorted(folder.name for folder in (source / split).iterdir())[:classes]
        for name in names:
            (target / split / name).mkdir(parents=True)
            for image in sorted((source / split / name).iterdir())[:images]:
                (target / split / name / image.name).symlink_to(image.resolve())
    return names


@pytest.mark.slow
def test_cifars_class_folders_train_from_the_command_line(data_root, run, tmp_path):
    some_folders(data_root / 'cifar10_small', tmp_path / 'data', images=32)
    options = [f'data_root={tmp_path / "data"}', 'train_cfg.max_epochs=2', 'default_hooks.logger.interval=1']
    options.append('model.head.num_classes=3')
    config = 'configs/cifar/resnet32_kerv_cifar10_folder.py'
    log = run('tools/train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options', *options, *WORKERS)
    assert 'mmkerv: 1 of 33 convolutions -> KervConv (3x3: 1)' in log
    assert 'Epoch(train) [2][2/2]' in log and 'Epoch(val) [2][1/1]' in log and 'nan' not in log
    assert (tmp_path / 'work' / 'epoch_2.pth').is_file() and list((tmp_path / 'work').glob('best_accuracy_top1_*'))


@pytest.mark.long
def test_ten_crops_run_from_the_command_line(data_root, run, tmp_path):
    classes = some_folders(data_root / 'tiny_imagenet_20', tmp_path / 'data', images=1)
    config = 'configs/imagenet/resnet18_kerv.py'
    init_default_scope('mmpretrain')
    net = MODELS.build(Config.fromfile(ROOT / config).model)
    torch.save({'state_dict': net.state_dict(), 'meta': {}}, tmp_path / 'net.pth')
    options = [f'data_root={tmp_path / "data"}', f'test_dataloader.dataset.metainfo.classes=[{",".join(classes)}]']
    scores = []
    for flags in ([], ['--tta']):
        out = tmp_path / 'out.pkl'
        log = run(
            *('tools/test.py', config, tmp_path / 'net.pth', '--work-dir', tmp_path, '--out', out),
            *(*flags, '--cfg-options', *options, *WORKERS),
        )
        assert 'accuracy/top1' in log
        scores.append(torch.stack([p['pred_score'] for p in mmengine.load(out)]))
    single, ten = scores
    assert single.shape == ten.shape == (3, 1000)
    assert torch.allclose(ten.sum(1), torch.ones(3)) and not torch.allclose(single, ten, rtol=1e-3)
