"""Real images of COCO: the stock pipeline overfits eight of them, and folding changes no metric."""

import json

import pytest

pytest.importorskip('mmdet')

from tests.contract.overfit import write_overfit_config


@pytest.mark.long
def test_overfits_eight_images_and_folds_to_the_same_map(data_root, run, tmp_path):
    config = write_overfit_config(data_root / 'coco_tiny', tmp_path)
    run('tools/train.py', config, '--work-dir', tmp_path / 'work', '--no-validate', OMP_NUM_THREADS='2')
    trained, folded = tmp_path / 'work' / 'epoch_80.pth', tmp_path / 'deploy.pth'
    log = run('tools/model_converters/reparameterize_model.py', config, trained, folded, '--shape', 192, 192)
    strength = float(log.partition('folded operators: ')[2].split()[0])
    assert strength > 0.1, 'the operators must matter, or a wrong fold would pass'

    metrics = []
    for name, checkpoint in ((config, trained), (folded.with_suffix('.py'), folded)):
        out = tmp_path / f'{checkpoint.stem}.json'
        run('tools/test.py', name, checkpoint, '--work-dir', tmp_path / 'test', '--out', out, '--out-item', 'metrics')
        metrics.append(json.loads(out.read_text()))
    assert metrics[0]['coco/bbox_mAP_50'] >= 0.5
    assert metrics[0]['coco/bbox_mAP'] >= 0.2
    for key, value in metrics[0].items():
        assert abs(metrics[1][key] - value) < 1e-4, key
