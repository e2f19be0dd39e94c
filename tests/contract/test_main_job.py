"""Train, test, fold, test again and infer, for a few iterations; with upstream's tool; with two processes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contract.conftest import ROOT, SMALL

pytest.importorskip('mmdet')

CONFIG = 'configs/demo/retinanet_coc_shapes.py'


def upstream(tool: str) -> Path:
    return Path(importlib.util.find_spec('mmdet').origin).parent / '.mim' / 'tools' / tool


def test_three_iterations_train_and_evaluate(trained):
    log = (trained / 'log.txt').read_text()
    assert 'Epoch(train) [1][3/3]' in log and 'loss: nan' not in log
    assert 'Evaluating bbox' in log
    assert (trained / 'epoch_1.pth').is_file() and not list(trained.glob('**/*.tmp'))


def test_resume_continues(trained, shapes, run):
    options = ['--cfg-options', f'data_root={shapes}', *SMALL, 'train_cfg.max_epochs=2']
    log = run('tools/train.py', CONFIG, '--work-dir', trained, '--resume', '--no-validate', *options)
    assert 'Epoch(train) [2][3/3]' in log and 'Epoch(train) [1][' not in log


def fold(run, config, checkpoint, out, *extra):
    return run('tools/model_converters/reparameterize_model.py', config, checkpoint, out, *extra)


def perturbed(source: Path, target: Path) -> Path:
    """Write the checkpoint with its super layers moved until |K - W| >= 0.3 |W|."""
    checkpoint = torch.load(source, weights_only=False)
    generator = torch.Generator().manual_seed(0)
    for key, value in checkpoint['state_dict'].items():
        if 'super_layers' in key and key.endswith('weight'):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    torch.save(checkpoint, target)
    return target


def test_fold_then_the_same_numbers_with_upstreams_tool(trained, shapes, run, tmp_path):
    moved = perturbed(trained / 'epoch_1.pth', tmp_path / 'moved.pth')
    images = shapes / 'val2017'
    data = ['--cfg-options', f'data_root={shapes}']
    log = fold(run, CONFIG, moved, tmp_path / 'deploy.pth', '--images', images, '--shape', 64, 64, *data)
    strength = float(log.partition('folded operators: ')[2].split()[0])
    error = float(log.partition('outputs, relative: ')[2].split()[0])
    assert strength >= 0.3 and error <= 1e-4
    assert 'mmkerv' not in (tmp_path / 'deploy.py').read_text()

    pickles = []
    for tool, config, checkpoint, name, options in (
        ('tools/test.py', CONFIG, moved, 'a', data),
        (upstream('test.py'), tmp_path / 'deploy.py', tmp_path / 'deploy.pth', 'b', []),
    ):
        run(tool, config, checkpoint, '--work-dir', tmp_path / name, '--out', tmp_path / f'{name}.pkl', *options)
        import mmengine

        pickles.append(mmengine.load(tmp_path / f'{name}.pkl'))
    for a, b in zip(*pickles, strict=True):
        assert len(a['pred_instances']['scores']) == len(b['pred_instances']['scores'])
        np.testing.assert_allclose(a['pred_instances']['scores'], b['pred_instances']['scores'], atol=1e-5)


def test_metrics_are_written(trained, shapes, run, tmp_path):
    out = tmp_path / 'metrics.json'
    options = ['--out', out, '--out-item', 'metrics', '--cfg-options', f'data_root={shapes}']
    run('tools/test.py', CONFIG, trained / 'epoch_1.pth', '--work-dir', tmp_path, *options)
    # After three iterations there may be no detections, and then mmdet gives no metric.
    assert isinstance(json.loads(out.read_text()), dict)


def test_upstreams_own_train_with_two_lines(shapes, run, tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n"
        "custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)\n"
        "model = dict(backbone=dict(conv_cfg=dict(type='CoCConv'), init_cfg=None))\n"
    )
    options = [*SMALL, f'train_dataloader.dataset.data_root={shapes}/', f'val_dataloader.dataset.data_root={shapes}/']
    classes = 'metainfo.classes="(circle,rectangle,triangle)"'
    options += [f'{phase}_dataloader.dataset.{classes}' for phase in ('train', 'val')]
    options += [f'val_evaluator.ann_file={shapes}/annotations/instances_val2017.json', 'model.bbox_head.num_classes=3']
    options += [
        'train_dataloader.dataset.pipeline.2.scale="(64,64)"',
        'val_dataloader.dataset.pipeline.1.scale="(64,64)"',
    ]
    log = run(upstream('train.py'), config, '--work-dir', tmp_path / 'work', '--cfg-options', *options)
    assert 'Epoch(train) [1][3/3]' in log
    state = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    assert 'backbone.layer4.1.conv2.super_layers.0.weight' in state


def test_inference_apis_before_and_after_folding(trained, shapes, run, tmp_path):
    import mmcv
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    moved = perturbed(trained / 'epoch_1.pth', tmp_path / 'moved.pth')
    fold(run, CONFIG, moved, tmp_path / 'deploy.pth')
    image = next((shapes / 'val2017').iterdir())
    scores = []
    for config, checkpoint in ((str(ROOT / CONFIG), moved), (str(tmp_path / 'deploy.py'), tmp_path / 'deploy.pth')):
        model = init_detector(config, str(checkpoint), device='cpu')
        scores.append(inference_detector(model, mmcv.imread(str(image))).pred_instances.scores)
        inferencer = DetInferencer(model=config, weights=str(checkpoint), device='cpu', show_progress=False)
        inferencer(str(image), out_dir=str(tmp_path / checkpoint.stem), pred_score_thr=0.0, no_save_vis=False)
        assert list((tmp_path / checkpoint.stem / 'vis').iterdir()), 'a picture is written'
    assert len(scores[0]) == len(scores[1])
    assert torch.allclose(*scores, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train(shapes, tmp_path):
    import os
    import subprocess
    import sys

    command = [str(ROOT / 'tools' / 'dist_train.sh'), CONFIG, '2', '--work-dir', str(tmp_path), '--no-validate']
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PORT': '29531', 'CUDA_VISIBLE_DEVICES': ''}
    env['PATH'] = f'{Path(sys.executable).parent}:{env["PATH"]}'
    options = ['--cfg-options', f'data_root={shapes}', *SMALL, 'train_dataloader.batch_size=1']
    done = subprocess.run([*command, *options], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert 'Epoch(train) [1][3/3]' in done.stdout + done.stderr
    assert (tmp_path / 'epoch_1.pth').is_file()
