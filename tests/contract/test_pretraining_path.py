"""ImageNet -> detection, instance and semantic segmentation -> fold, on small data, with the commands of a user."""

import copy
import json

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS, init_default_scope

from mmkerv.deploy.model_outputs import largest_difference, raw_outputs, sample_inputs
from mmkerv.deploy.trained_model import build_model
from mmkerv.engine import safe_load
from mmkerv.engine.config.read import load_config
from mmkerv.ops import CoCConv2d
from tests.contract.pretraining_path import TASKS, fine_tuning, pretraining

PATHS = {
    'imagenet/resnet50_coc': ['retinanet_r50_coc'],
    'imagenet/resnet50_stnd': ['retinanet_r50_stnd', 'fcn_r50d8_stnd_voc'],
    'imagenet/resnet50_orth': ['retinanet_r50_orth'],
    'imagenet/hrnet18': ['mask_rcnn_hr18', 'fcn_hr18_voc'],
    'imagenet/hrnet18_coc': ['mask_rcnn_hr18_coc', 'fcn_hr18_coc_voc'],
    'imagenet/hrnet18_stnd': ['mask_rcnn_hr18_stnd', 'fcn_hr18_stnd_voc'],
    'imagenet/hrnet18_orth': ['mask_rcnn_hr18_orth', 'fcn_hr18_orth_voc'],
}


def backbone_shapes(config):
    cfg = load_config(f'configs/{config}.py')
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(cfg.model.backbone)
    return {name: value.shape for name, value in backbone.state_dict().items()}


@pytest.mark.parametrize('source, target', [(a, b) for a, targets in PATHS.items() for b in targets])
def test_backbones_have_one_state_dict(source, target):
    assert backbone_shapes(source) == backbone_shapes(target)


@pytest.fixture(scope='session')
def pretrained(data_root, run, tmp_path_factory):
    """Train a classifier on first use; return its config and checkpoint."""
    made = {}

    def pretrain(backbone):
        if backbone not in made:
            folder = tmp_path_factory.mktemp(backbone)
            config = pretraining(backbone, data_root, folder)
            run('tools/train.py', config, '--work-dir', folder)
            made[backbone] = (config, folder / 'epoch_1.pth')
        return made[backbone]

    return pretrain


def metrics(run, config, checkpoint, folder):
    out = folder / f'{checkpoint.stem}.json'
    run('tools/test.py', config, checkpoint, '--work-dir', folder / 'test', '--out', out, '--out-item', 'metrics')
    return json.loads(out.read_text())


# One case stands for all; with HRNet's 265 convolutions each takes three times as long.
CASES = [
    pytest.param(backbone, task, marks=[] if (backbone, task) == ('resnet18', 'retinanet') else [pytest.mark.long])
    for backbone, tasks in TASKS.items()
    for task in tasks
]


@pytest.mark.slow
@pytest.mark.parametrize('backbone, task', CASES)
def test_pretrain_fine_tune_fold(backbone, task, pretrained, data_root, run, tmp_path):
    _, start = pretrained(backbone)
    config = fine_tuning(backbone, task, start, data_root, tmp_path)
    log = run('tools/train.py', config, '--work-dir', tmp_path)
    (line,) = [line for line in log.splitlines() if str(start) in line and 'loaded' in line]
    assert ' 0 missing, 0 unexpected' in line
    checkpoint = tmp_path / ('epoch_1.pth' if 'rcnn' in task or task == 'retinanet' else 'iter_4.pth')
    folded = tmp_path / 'deploy.pth'
    log = run('tools/model_converters/reparameterize_model.py', config, checkpoint, folded, '--shape', 128, 128)
    strength = float(log.partition('folded operators: ')[2].split()[0])
    assert strength >= 0.3, 'the operators must matter, or a wrong fold would pass'

    cfg = load_config(str(config))
    model = build_model(cfg, safe_load(checkpoint)['state_dict'], str(checkpoint))
    wrong = copy.deepcopy(model)
    for operator in wrong.modules():
        if isinstance(operator, CoCConv2d):
            operator.super_layers[0].weight.data.zero_()
    inputs, samples = next(sample_inputs(model, (128, 128)))
    assert largest_difference(raw_outputs(model, inputs, samples), raw_outputs(wrong, inputs, samples)) > 1e-2

    before, after = (
        metrics(run, c, f, tmp_path) for c, f in ((config, checkpoint), (folded.with_suffix('.py'), folded))
    )
    # A detector that has hardly been trained may detect nothing, and COCO's metric is empty then.
    assert before.keys() == after.keys() and (not before or set(TASKS[backbone][task][1]) <= before.keys())
    assert list(after.values()) == pytest.approx(list(before.values()), abs=1e-3)


@pytest.mark.slow
def test_inferencers_run_before_and_after_folding(pretrained, data_root, run, tmp_path):
    from mmpretrain import ImageClassificationInferencer
    from mmseg.apis import MMSegInferencer

    classifier, start = pretrained('resnet18')
    segmentor = fine_tuning('resnet18', 'fcn', start, data_root, tmp_path)
    run('tools/train.py', segmentor, '--work-dir', tmp_path, '--no-validate')
    image = next((data_root / 'voc_tiny/VOCdevkit/VOC2012/JPEGImages').iterdir())
    for config, checkpoint in ((classifier, start), (segmentor, tmp_path / 'iter_4.pth')):
        init_default_scope('mmpretrain' if config == classifier else 'mmseg')
        folded = tmp_path / f'{checkpoint.stem}_deploy.pth'
        run('tools/model_converters/reparameterize_model.py', config, checkpoint, folded, '--shape', 96, 96)
        found = []
        for c, f in ((config, checkpoint), (folded.with_suffix('.py'), folded)):
            if config == classifier:
                inferencer = ImageClassificationInferencer(str(c), pretrained=str(f), device='cpu')
                found.append(torch.as_tensor(inferencer(str(image))[0]['pred_scores']))
            else:
                inferencer = MMSegInferencer(str(c), weights=str(f), device='cpu')
                found.append(torch.as_tensor(inferencer(str(image))['predictions']).float())
        if config == classifier:
            torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-3)
        else:
            assert (found[0] == found[1]).float().mean() > 0.999
