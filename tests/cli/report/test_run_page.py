"""Parts of the page of a run and of a comparison, without a training."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmcv')

from PIL import Image
from torch import nn

from mmkerv.analysis.logs import Curve, Log
from mmkerv.cli.report.comparison_page import chart, comparison_page, mean_curve
from mmkerv.cli.report.kernels import draw_kernels
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
from mmkerv.cli.report.run_page import charts, config_of
from mmkerv.cli.report.scenes import Panel, Scene
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
        'milliseconds': [9.0, 4.0],
        'missing': 0,
        'failed': {'1': HOSTILE} if difference else {},
        'without_metric': [],
        'folds': {},
        'not_built': None,
    }


def results():
    difference = {'mean': 1.5, 'pairs': 2, 'low': -0.5, 'high': 3.5, 'freedom': 1, 'verdict': 'undecided'}
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
    drawn = overlay(image, np.array([[0, 255], [1, 255]], np.uint8), [(200, 0, 0), (0, 0, 0)])
    assert drawn.getpixel((0, 0)) == (155, 45, 45) and drawn.getpixel((3, 3)) == (100, 100, 100)
    assert drawn.getpixel((0, 3)) == (45, 45, 45)


def test_config_of_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no config of a run.*work_dir of tools/train\.py'):
        config_of(tmp_path)
    (tmp_path / 'a.py').touch()
    (tmp_path / 'deploy.py').touch()
    assert config_of(tmp_path).name == 'a.py'
