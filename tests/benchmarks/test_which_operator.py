"""The study's comparisons are those that tools/compare.py takes, and its tables tell what was not run."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS, init_default_scope

from mmkerv.analysis.comparison.placed import variant_config
from mmkerv.analysis.comparison.results import results
from mmkerv.analysis.comparison.variant import Variant, parse_variants
from mmkerv.cli.compare import parse_args
from mmkerv.engine.config.read import load_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'benchmarks'))
study = importlib.import_module('which_operator')
sys.path.remove(str(ROOT / 'benchmarks'))


@pytest.mark.parametrize('name', study.TASKS)
def test_every_variant_has_a_config(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = parse_args(study.TASKS[name].command(name, 2)[1:])
    variants = parse_variants(args.operators)
    cfg = load_config(args.config, args.cfg_options)
    configs = [variant_config(cfg, variant)[0] for variant in variants]
    assert variants[0] == Variant('plain') and (args.seeds, args.epochs) == study.TASKS[name][3:5]
    assert [c.model.type == 'mmkerv.Converted' for c in configs] == [v.operator is not None for v in variants]
    init_default_scope(cfg.default_scope)
    for variant, config in zip(variants, configs):
        if variant.where:
            # It replaces something.
            MODELS.build(config.model)


def test_report_of_a_task_that_was_run_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(study, 'ROOT', tmp_path)
    found = results(parse_variants(['plain', 'coc']), [], {'plain': 'no data', 'coc': 'no data'}, {}, {})
    for row, values in zip(found['rows'], ({'0': 0.5, '1': 0.6}, {})):
        row.update(values=values, seconds=1800.0 * len(values))
    found['rows'][0].update(mean=0.55, deviation=0.07)
    found |= {'metric': 'mIoU', 'schedule': '8 epochs', 'seeds': 2, 'date': '2026-01-01', 'command': ''}
    found['environment'] = {'processor': 'CPU', 'PyTorch': '2', 'mmkerv': '0'}
    work = tmp_path / study.WORK / 'segmentation'
    work.mkdir(parents=True)
    (work / 'results.json').write_text(json.dumps(found))
    (tmp_path / 'docs').mkdir()
    shutil.copy(ROOT / study.DOC, tmp_path / study.DOC)
    study.main(['report'])
    text = (tmp_path / study.DOC).read_text()
    runs = 2 * len(study.TASKS['segmentation'].operators)
    assert f'| segmentation | {runs // 2} | 2 | {runs} | 2 | 1.0 |' in text
    assert '| `plain` | 0.5500 ± 0.0700 (0.5000, 0.6000) |' in text
    assert '| `coc` | not built |' in text and '\nNot run: Detection: shapes, ' in text


def test_settings_are_compared_under_their_optimizer():
    specs = study.TASKS['detection'].operators
    found = results(parse_variants(specs), [], dict.fromkeys(specs, 'no data'), {}, {})
    found['metric'] = 'mAP'
    for row in found['rows']:
        level = 0.1 if study.SGD in row['operator'] else 0.3
        values = (
            {'0': level, '1': level + (0.01 if row['operator'] != 'plain' else 0.02)}
            if 'kaiming' not in row['operator']
            else {'0': level + 0.05}
        )
        row.update(values=values, mean=level, not_built=None)
    lines = study.settings_of_coc(found).splitlines()
    assert len(lines) == 2 + 3 + len(study.COC_IN_DETECTION)
    sgd = next(line for line in lines if line.startswith('| CoC, SGD |'))
    assert '| +0.0000 [' in sgd and sgd.endswith('| plain, SGD | undecided |')
    kaiming = next(line for line in lines if line.startswith('| CoC, SGD, kaiming start |'))
    assert '| +0.0500 | plain, SGD | ' in kaiming
