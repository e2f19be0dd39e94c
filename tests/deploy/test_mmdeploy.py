"""Folded networks through mmdeploy to onnxruntime, where mmdeploy is installed: docs/export.md tells how."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmkerv.deploy.fold import fold_checkpoint
from mmkerv.deploy.trained_model import load_trained
from tests.engine.small_networks import SIZE, associated, classifier, retinanet, segmentor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec('mmdeploy') is None, reason='mmdeploy is not installed'),
]

# In a process of its own: importing mmdeploy changes torch.onnx.export.
CONVERT = """
import sys
from mmdeploy.apis import torch2onnx

image, folder, deploy_cfg, model_cfg, checkpoint = sys.argv[1:]
torch2onnx(image, folder, 'net.onnx', deploy_cfg, model_cfg, checkpoint, device='cpu')
"""
FREE, BOXES = {0: 'batch', 2: 'height', 3: 'width'}, {0: 'batch', 1: 'num_dets'}


def detector() -> Config:
    cfg = retinanet()
    # mmdeploy chooses by the best class where there are more candidates than `nms_pre`, mmdetection by each class.
    cfg.model.test_cfg.update(nms_pre=10_000, score_thr=0.5, max_per_img=10_000)
    return cfg


def boxes(model: nn.Module, x: Tensor) -> list[Tensor]:
    from mmdet.structures import DetDataSample

    size = tuple(x.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    [sample] = model.predict(x, [DetDataSample(metainfo=meta)], rescale=False)
    found = sample.pred_instances
    return [torch.cat([found.bboxes, found.scores[:, None]], 1)[None], found.labels[None]]


def rows(dets: Tensor, labels: Tensor) -> Tensor:
    """Return a row of box, score and label for each box; mmdeploy fills the output up with zeros."""
    return torch.cat([dets[0], labels[0, :, None].float()], 1)[dets[0, :, 4] > 0]


def in_order_of(expected: Tensor, found: Tensor) -> Tensor:
    """Return for each expected box the nearest one found: boxes of nearly equal scores change places."""
    return found[torch.cdist(expected, found, compute_mode='donot_use_mm_for_euclid_dist').argmin(1)]


def logits(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [model.encode_decode(x, [dict(img_shape=x.shape[2:])])]


def probabilities(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [model(x, mode='tensor').softmax(1)]


# Of each library: the network, mmdeploy's task with its outputs and their free sizes, further options of the task, the
# last step of the pipeline, and what the network computes in PyTorch.
TASKS = {
    'mmdet': (
        detector,
        ('ObjectDetection', {'dets': BOXES, 'labels': BOXES}),
        dict(
            model_type='end2end',
            post_processing=dict(
                score_threshold=0.05,
                confidence_threshold=0.005,
                iou_threshold=0.5,
                max_output_boxes_per_class=10_000,
                pre_top_k=-1,
                keep_top_k=10_000,
                background_label_id=-1,
            ),
        ),
        'PackDetInputs',
        boxes,
    ),
    'mmseg': (segmentor, ('Segmentation', {'output': FREE}), dict(with_argmax=False), 'PackSegInputs', logits),
    'mmpretrain': (classifier, ('Classification', {'output': {0: 'batch'}}), {}, 'PackInputs', probabilities),
}


@pytest.mark.parametrize('library', TASKS)
def test_onnxruntime_computes_what_the_folded_network_does(library, tmp_path):
    pytest.importorskip(library)
    onnxruntime, mmcv = pytest.importorskip('onnxruntime'), pytest.importorskip('mmcv')
    build, (task, outputs), options, pack, compute = TASKS[library]
    cfg = build()
    cfg.test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=SIZE), dict(type=pack)]
    cfg.test_dataloader = dict(dataset=dict(pipeline=cfg.test_pipeline))
    model = associated(cfg)
    if library == 'mmdet':
        nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.1)
        nn.init.zeros_(model.bbox_head.retina_cls.bias)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'trained.pth')
    result = fold_checkpoint(cfg, tmp_path / 'trained.pth', tmp_path / 'deploy.pth', shape=SIZE)
    assert len(result.report.replaced) > 5 and 'mmkerv' not in (tmp_path / 'deploy.py').read_text()

    onnx_config = dict(
        type='onnx',
        export_params=True,
        keep_initializers_as_inputs=False,
        opset_version=11,
        save_file='net.onnx',
        input_shape=None,
        optimize=True,
    )
    onnx_config |= dict(input_names=['input'], output_names=list(outputs), dynamic_axes={'input': FREE, **outputs})
    Config(
        dict(
            onnx_config=onnx_config,
            backend_config=dict(type='onnxruntime'),
            codebase_config=dict(type=library, task=task, **options),
        )
    ).dump(tmp_path / 'mmdeploy.py')
    mmcv.imwrite(np.random.randint(0, 256, (*SIZE, 3), np.uint8), str(tmp_path / 'image.png'))
    files = [str(tmp_path / name) for name in ('image.png', '', 'mmdeploy.py', 'deploy.py', 'deploy.pth')]
    done = subprocess.run([sys.executable, '-c', CONVERT, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    session = onnxruntime.InferenceSession(str(tmp_path / 'net.onnx'), providers=['CPUExecutionProvider'])
    plain = load_trained(str(tmp_path / 'deploy.py'), str(tmp_path / 'deploy.pth'))[1]
    for size in (SIZE, (96, 128)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = compute(plain, x)
        found = [torch.from_numpy(output) for output in session.run(None, {'input': x.numpy()})]
        if library == 'mmdet':
            found, expected = [rows(*found)], [rows(*expected)]
            assert len(found[0]) == len(expected[0])
            found = [in_order_of(*expected, *found)]
        for ours, theirs in zip(found, expected):
            assert ours.shape == theirs.shape and theirs.numel() >= 4
            torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.abs().max().item(), rtol=0)
