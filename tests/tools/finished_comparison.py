"""The work folder that a finished comparison of two small classifiers leaves, without having trained them."""

import json
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.tools.bad_input import CONFIG

OPERATORS = {'plain': None, 'coc': dict(type='mmkerv.CoCConv'), 'kerv': dict(type='mmkerv.KervConv', kernel='sigmoid')}
CLASSES = ('circle', 'square', 'cross (x)')


def write_comparison(folder: Path) -> Path:
    """Write data and the folders of runs, of which ``coc`` has two seeds and ``ck`` has failed; return the folder."""
    data, work = folder / 'data' / 'kinds', folder / 'work_dirs' / 'kinds'
    generator = np.random.default_rng(0)
    for number, kind in enumerate('abc'):
        for name in range(2):
            image = generator.integers(0, 80, (32, 32, 3), np.uint8) + np.uint8(80 * number)
            mmcv.imwrite(image, str(data / kind / f'{name}.png'))
    init_default_scope('mmpretrain')
    for operator, conv_cfg in OPERATORS.items():
        for seed in range(2 if operator == 'coc' else 1):
            write_run(work, data, operator, conv_cfg, seed)
    failed = work / 'ck' / 'seed_0'
    failed.mkdir(parents=True)
    (failed / 'record.json').write_text(json.dumps({'operator': 'ck', 'seed': 0, 'status': 'failed', 'error': 'a'}))
    (work / 'comparison.json').write_text('{}')
    return work


def write_run(work: Path, data: Path, operator: str, conv_cfg: dict | None, seed: int) -> None:
    """Write what is left of a run, with everything of the machine and the training that a runner writes."""
    folder = work / operator / f'seed_{seed}'
    folder.mkdir(parents=True)
    cfg = Config.fromfile(written(folder.parent / 'small.py', CONFIG.format(data=str(data), weights='/home/a/b.pth')))
    cfg.merge_from_dict({'model.backbone.conv_cfg': conv_cfg, 'randomness.seed': seed})
    cfg.work_dir, cfg.load_from, cfg.launcher = str(folder), str(folder / 'start.pth'), 'none'
    cfg.custom_hooks = [{'type': 'mmkerv.FrozenKernelsHook'}, {'type': 'EMAHook'}]
    cfg.vis_backends = [{'type': 'WandbVisBackend', 'init_kwargs': {'entity': 'somebody'}}]
    written(folder / 'small.py', cfg.pretty_text)
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        for parameter in model.parameters():
            # Super kernels start as the identity, whose fold would be right by accident.
            parameter += 0.05 * torch.randn_like(parameter)
    checkpoint = folder / 'epoch_2.pth'
    meta = {'epoch': 2, 'iter': 6, 'seed': seed, 'cfg': cfg.pretty_text, 'experiment_name': str(folder)}
    meta['dataset_meta'] = {'classes': CLASSES}
    torch.save(
        {'meta': meta, 'state_dict': model.state_dict(), 'optimizer': {'state': {}}, 'message_hub': {}}, checkpoint
    )
    written(folder / 'last_checkpoint', str(checkpoint))
    record = {'operator': operator, 'seed': seed, 'date': '2026-11-30T07:39:59+00:00', 'status': 'done'}
    written(folder / 'record.json', json.dumps({**record, 'metrics': {'accuracy/top1': 33.3 + seed}}))


def written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file
