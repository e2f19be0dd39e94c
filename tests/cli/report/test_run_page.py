"""Parts of the page of a run and of a comparison, without a training."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmcv')

from mmengine.config import Config
from PIL import Image
from torch import nn

from mmkerv.analysis.comparison.record import DONE, FAILED, Run
from mmkerv.analysis.comparison.variant import parse_variant
from mmkerv.analysis.logs import Curve, Log
from mmkerv.cli.report import run_page
from mmkerv.cli.report.charts import Line, line_chart
from mmkerv.cli.report.comparison_page import chart, comparison_page, curves_of, mean_curve
from mmkerv.cli.report.kernels import association, draw_kernels
from mmkerv.cli.report.page import (
    Charts,
    Facts,
    KernelPairs,
    Page,
    Scenes,
    Section,
    Stat,
    Table,
    Words,
    render_page,
)
from mmkerv.cli.report.predictions import overlay
from mmkerv.cli.report.run_page import _begun, _first_config, _results, _stats, charts, config_of, write_run_report
from mmkerv.cli.report.scenes import Panel, Scene, scene
from mmkerv.errors import ConfigError
from mmkerv.ops import CoCConv2d
from tests.cli.report.test_report import HOSTILE
from tests.cli.report.test_report import Page as Parsed

FACTS = {'processor': 'A processor', 'threads': '2', 'GPU': 'none used', 'mmkerv': '0.1.0', 'PyTorch': '2'}


def row(operator, mean, difference=None):
    return {
        'operator': operator,
        'values': {'0': mean, '1': mean},
        'mean': mean,
        'deviation': 0.5,
        'difference': difference,
        'cost': {'replaced': f'nothing of {operator}', 'shape': [64, 64], 'complexity': None, 'note': ''},
        'seconds_per_step': 0.25,
        'memory_mib': 900,
        'memory_of': 'process',
        'jobs': 1,
        'resumed': [],
        'milliseconds': [9.0, 4.0],
        'missing': 0,
        'failed': {'1': HOSTILE} if difference else {},
        'without_metric': [],
        'folds': {},
        'not_built': None,
    }


def results():
    difference = {'mean': 1.5, 'pairs': 2, 'low': -0.5, 'high': 3.5, 'freedom': 1, 'verdict': 'undecided', 'seeds': 2}
    return {
        'metric': 'mIoU',
        'reference': 'plain',
        'method': 'Difference: paired',
        'rows': [row('plain', 70.0), row(HOSTILE, 71.5, difference)],
        'inference': {},
        'config': 'configs/a.py',
        'options': {'data_root': HOSTILE},
        'schedule': '4 epochs a run; scaled: x',
        'seeds': 2,
        'command': f'python tools/compare.py {HOSTILE}',
        'date': '2026-01-02T03:04:05+00:00',
        'environment': FACTS,
    }


def test_comparison_page():
    curve = Curve('iteration', [1, 2], [2.0, 1.0])
    curves = {'loss': {'plain': curve, HOSTILE: curve}}
    text = render_page(comparison_page(results(), curves, Path('work')))
    page = Parsed(text)
    assert page.open == [] and '<script' not in text and not re.search(r'https?://', text)
    assert [a['id'] for a in page.all('section')] == ['results', 'curves', 'environment']
    for words in ('+1.50', 'undecided, 95 % [-0.50, +3.50]', '71.50 ± 0.50', '900 MiB', '9.0 -> 4.0', 'A processor'):
        assert words in page.words, words
    assert page.words.count(HOSTILE) >= 6


def test_curves_are_means_of_the_same_positions():
    curves = [Curve('epoch', [1, 2], [1.0, 2.0]), Curve('epoch', [1, 2], [3.0, 2.0]), Curve('epoch', [1], [9.0])]
    assert mean_curve(curves) == Curve('epoch', [1, 2], [2.0, 2.0])


def test_many_curves_have_colours():
    curve = Curve('epoch', [1, 2], [1.0, 2.0])
    svg = chart('mIoU', {f'operator {i}': curve for i in range(8)}, 'a').svg
    assert all(f'var(--series-{number})' in svg for number in range(1, 7)) and not re.search(r'#0[0-9]0', svg)


@pytest.mark.parametrize(
    'values',
    [[math.nan, math.inf], [2.0, math.inf, math.nan], [-math.inf, -3.0], [-2.0, -1.0], [0.0, 0.0]],
    ids=['none', 'positive', 'infinite', 'negative', 'zero'],
)
def test_curves_of_a_training_that_diverged(values):
    svg = line_chart([Line('loss', range(len(values)), values)], 'iteration', 'loss', 'a')
    assert svg.startswith('<svg')
    curve = Curve('iteration', list(range(len(values))), values)
    assert len(mean_curve([curve, curve._replace(y=[-value for value in values])]).y) == len(values)
    log = Log(Path('a'), [{'loss': value, 'step': 1 + n} for n, value in enumerate(values)], [])
    log.evaluation.extend({'mIoU': value, 'step': 1 + n} for n, value in enumerate([math.nan, 5.0, 4.0]))
    assert charts(log) and _stats(log, {'mIoU': 4.0}, None)[0].note == 'last evaluation; highest 5'
    assert _results(log)[0].rows == [('mIoU', ['4', '5'])]


def test_curves_are_those_of_finished_runs(tmp_path):
    runs = [Run(parse_variant(spec), seed, tmp_path / spec / str(seed)) for spec in ('plain', 'coc') for seed in (0, 1)]
    for run in runs:
        log = run.folder / '20260101_000000' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text(json.dumps({'loss': 1.0 + run.seed, 'step': 1}) + '\n')
    runs[1].write(status=DONE, metrics={})
    runs[2].write(status=FAILED, error='the loss is NaN', log='log.txt')
    curves = curves_of({'metric': 'mIoU'}, runs)['loss']
    assert curves['plain'].y == [2.0] and curves['coc (unfinished)'].y == [1.5]


@pytest.mark.parametrize('start', [None, 'resnet50.pth'])
def test_resumed_run_began_where_its_first_start_did(tmp_path, start):
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    last = Config(dict(resume=True, load_from='epoch_1.pth', randomness=dict(seed=0)))
    for number, text in enumerate((f'load_from = {start!r}', "resume = True\nload_from = 'epoch_1.pth'")):
        file = tmp_path / f'2026010{number}_000000' / 'vis_data' / 'config.py'
        file.parent.mkdir(parents=True)
        file.write_text(f'{text}\n')
    found = _first_config(tmp_path, last)
    assert found.get('load_from') == start and _first_config(tmp_path / 'absent', last) is last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_page, 'starting_model', lambda cfg, seed: model)
        section = run_page._kernels(tmp_path, last, model, 'epoch_2.pth')
    assert ('it began from a checkpoint' in section.text) is bool(start)
    assert 'after training, with epoch_2.pth' in section.text
    log = Log(tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json', [], [])
    assert _begun(tmp_path, log) == '20260100_000000'
    # Without the configs, or with one that cannot be read, the date of the log is the best there is.
    assert _begun(tmp_path / 'absent', log) == '20260101_000000'
    file.write_text('1 / 0')
    assert _begun(tmp_path, log) == '20260101_000000'


def asked_by_page(work, names):
    """Return the checkpoints that the page of a run asks for, and what is not on it, where these files are there."""
    asked = []

    def load(config, checkpoint):
        asked.append(checkpoint.name)
        raise ConfigError('enough')

    for name in names:
        (work / name).touch()
    log = Log(work / 'a', [{'loss': 1.0, 'step': 1}], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_page, 'load_trained', load)
        page = run_page.run_page(work, log, Config(dict(model=dict())), work / 'a.py', 1)
    missing = next(section for section in page.sections if section.title == 'Not on this page')
    return asked, str(missing.blocks[0])


@pytest.mark.parametrize(
    'best, chosen', [((), 'last'), (('best_a.pth',), 'best_a'), (('best_a.pth', 'best_b.pth'), 'last')]
)
def test_page_takes_the_checkpoint_that_the_tools_take(tmp_path, best, chosen):
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'last.pth'))
    assert asked_by_page(tmp_path, ('last.pth', *best))[0] == [f'{chosen}.pth']


@pytest.mark.parametrize('others', [(), ('epoch_1.pth',)])
def test_page_takes_the_only_checkpoint_where_nothing_names_one(tmp_path, others):
    """As the other tools; of several, the page says that it does not know which."""
    asked, missing = asked_by_page(tmp_path, ('epoch_2.pth', *others))
    assert asked == ([] if others else ['epoch_2.pth'])
    assert ('last_checkpoint names none of its 2 checkpoints' in missing) == bool(others)


def test_a_run_without_a_seed_is_told_how_to_fix_one(tmp_path):
    section = run_page._kernels(tmp_path, Config(dict(model=dict())), nn.Sequential(nn.Conv2d(3, 4, 3)), 'a.pth')
    assert section.text.endswith('no fixed seed. To fix one, train with --cfg-options randomness.seed=0.')


def test_a_small_association_is_not_rounded_to_zero():
    operator = CoCConv2d(3, 4, 3)
    # The identity, and a little more.
    operator.super_layers[-1].weight.data.add_(1e-5)
    (drawn,) = draw_kernels({'conv': operator}, None)
    found = float(re.search(r'is (\S+) after training', drawn.text)[1])
    assert 0 < found < 0.005 and found == pytest.approx(association(operator), rel=0.005)


@pytest.mark.parametrize(
    ('count', 'captions'),
    [
        (1, ['The only one.']),
        (2, ['The first layer, which sees the image.', 'The last one.']),
        (4, ['The first layer, which sees the image.', 'One between.', 'The last one.']),
    ],
)
def test_captions_of_few_layers(count, captions):
    drawn = draw_kernels({f'conv{n}': nn.Conv2d(3, 4, 3) for n in range(count)}, None)
    assert [kernels.text.partition('. ')[2] for kernels in drawn] == captions


def test_folder_of_several_runs_is_refused(tmp_path):
    for seed in (0, 1):
        log = tmp_path / f'seed_{seed}' / '20260101_000000' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text(json.dumps({'loss': 1.0, 'step': 1}) + '\n')
    (tmp_path / 'a.py').touch()
    with pytest.raises(ConfigError, match=r'is no run, it holds 2: give the folder of one, such as .*seed_0$'):
        write_run_report(tmp_path)


def test_every_block_is_drawn():
    kernels = draw_kernels({'conv': nn.Conv2d(3, 4, 3), 'last': nn.Conv2d(4, 4, 3)}, None)
    panels = [Panel('prediction', [], HOSTILE, b'\x89PNG'), Panel('ground truth', [])]
    blocks = [
        Scenes([Scene('1.jpg', b'', 8, 8, panels)]),
        Table('Table', ['a'], [(HOSTILE, [HOSTILE])]),
        Charts(charts(Log(Path('a'), [{'loss': 2.0, 'lr': 0.1, 'step': 1}], [{'mIoU': 1.0, 'step': 1}]))),
        KernelPairs(kernels),
        Facts([(HOSTILE, HOSTILE)], HOSTILE, short=False),
        Words([HOSTILE]),
    ]
    section = Section('all', HOSTILE, blocks, HOSTILE)
    text = render_page(Page(HOSTILE, HOSTILE, HOSTILE, HOSTILE, [Stat(HOSTILE, HOSTILE)], [section], HOSTILE))
    page = Parsed(text)
    assert page.open == [] and '<script' not in text and page.words.count(HOSTILE) >= 14
    assert text.count('before training') == 0 and text.count('after training</figcaption>') == 2
    assert [c for c in ('Loss', 'Evaluation', 'Learning rate') if c in page.words] == [
        'Loss',
        'Evaluation',
        'Learning rate',
    ]


def test_classes_are_drawn_over_the_image():
    image = Image.new('RGB', (4, 4), (100, 100, 100))
    beyond = overlay(Image.new('RGB', (2, 1)), np.array([[1, 2]], np.uint8), [(200, 0, 0)])
    assert len({beyond.getpixel((0, 0)), beyond.getpixel((1, 0)), (0, 0, 0)}) == 3
    drawn = overlay(image, np.array([[0, 255], [1, 255]], np.uint8), [(200, 0, 0), (0, 0, 0)])
    assert drawn.getpixel((0, 0)) == (155, 45, 45) and drawn.getpixel((3, 3)) == (100, 100, 100)
    assert drawn.getpixel((0, 3)) == (45, 45, 45)


def test_images_are_turned_as_their_exif_data_say(tmp_path):
    """Boxes are found in the image that the pipeline reads, which mmcv turns."""
    image = Image.new('RGB', (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / 'a.jpg', exif=exif)
    assert scene(tmp_path / 'a.jpg', [])[2:4] == (4, 8)


def test_config_of_a_run(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r'no config of a run.*work_dir of tools/train\.py'):
        config_of(tmp_path)
    (tmp_path / 'a.py').touch()
    (tmp_path / 'deploy.py').touch()
    assert config_of(tmp_path).name == 'a.py' and not capsys.readouterr().out
    (tmp_path / 'b.py').write_text((tmp_path / 'a.py').read_text())
    os.utime(tmp_path / 'b.py', (2e9, 2e9))
    assert config_of(tmp_path).name == 'b.py'
    assert 'the page is that of b.py, the newest config; others are a.py' in capsys.readouterr().out
