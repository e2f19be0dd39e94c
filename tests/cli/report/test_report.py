"""The demo's report from invented runs: a self-contained page with all results, in which no text becomes markup."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip('mmcv')

from mmkerv.analysis.logs import Curve
from mmkerv.cli.report.demo_page import render_report
from mmkerv.cli.report.demo_record import RECORD_FILE, read_record
from mmkerv.cli.report.demo_report import read_curves, training_charts, write_demo_report
from mmkerv.cli.report.page import Panel, tags
from mmkerv.cli.report.scenes import Box
from mmkerv.errors import ConfigError
from tests.cli.report import made_up

SECTIONS = ['detections', 'comparison', 'training', 'kernels', 'own-data', 'environment']
VOID = {'meta', 'link', 'img', 'br', 'wbr', 'rect', 'path', 'use'}
HOSTILE = '<script>alert(1)</script>"\'&{{ 7 * 7 }}'


class Page(HTMLParser):
    """Parser that collects the elements and the text of a page and checks that its tags match."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f'</{tag}> at {self.getpos()}'

    def handle_data(self, data):
        self.words += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope='module')
def report():
    return made_up.report()


@pytest.fixture(scope='module')
def text(report):
    return render_report(report)


@pytest.fixture(scope='module')
def page(text):
    return Page(text)


def test_page_is_self_contained(page, text):
    addresses = [a[key] for _, a in page.elements for key in ('src', 'href', 'srcset', 'action', 'data') if key in a]
    assert len(addresses) > 12 and all(address.startswith(('data:', '#')) for address in addresses)
    assert set(re.findall(r'url\((.)', text)) <= {'#'}
    assert '@import' not in text and not page.all('script') and not page.all('iframe')
    assert not re.search(r'https?://|file://', text)
    assert any("default-src 'none'" in a.get('content', '') for a in page.all('meta'))


def test_page_is_small(text):
    assert len(text.encode()) < 1.5e6


def test_page_is_well_formed(page):
    assert page.open == []
    ids = [a['id'] for _, a in page.elements if 'id' in a]
    assert len(ids) == len(set(ids))
    targets = {a['href'] for _, a in page.elements if a.get('href', '').startswith('#')}
    assert targets <= {f'#{name}' for name in ids}
    assert [a['id'] for a in page.all('section')] == SECTIONS
    assert {f'#{name}' for name in SECTIONS} <= {a['href'] for a in page.all('a')}


def test_everything_visible_has_a_text_alternative(page):
    images = page.all('img')
    assert len(images) == 2 * 3 + 3 * 2 and all(len(a['alt']) > 10 for a in images)
    assert images[1]['alt'] == '1.jpg, trained network: 1 circle, 1 rectangle'
    assert all(a.get('aria-hidden') == 'true' for a in page.all('svg'))
    assert all(a['aria-label'] for _, a in page.elements if a.get('role') in ('img', 'group'))


@pytest.mark.parametrize(
    'words',
    [
        '0.475',
        '0.736',
        '0.532',
        '13,149,279',
        '13,136,383',
        '129.8',
        '2.9×',
        '2.1e-07',
        '0.45 – 0.82',
        '2026-01-02 03:04 UTC',
        '7 min 42 s',
        'A processor',
        'seed 7',
        'configs/demo/made_up.py',
        'circle 0.90',
        'make demo-compare',
        'before training',
        'python tools/train.py my_detector.py',
        'loss 0.037',
    ],
)
def test_page_contains(page, words):
    assert words in page.words


def test_plain_network_fills_its_column():
    report = made_up.report(plain=True)
    page = Page(render_report(report))
    assert 'make demo-compare' not in page.words
    for words in ('0.375', '13,136,000', '44.4', 'configs/plain.py, 5 min 1 s', 'mAP_50, plain', 'loss, plain'):
        assert words in page.words


def test_charts_use_the_colours_of_the_page(report):
    for chart in report.charts:
        assert 'currentColor' in chart.svg and 'var(--series-1)' in chart.svg and 'var(--line)' in chart.svg
        assert not re.search(r'#[0-9a-f]{6}\b', chart.svg) and 'font-family' not in chart.svg


def test_network_without_detections(report):
    nothing = replace(report.record, before={}, after={})
    empty = [scene._replace(panels=[Panel('trained network', [])]) for scene in report.scenes]
    page = Page(render_report(replace(report, record=nothing, scenes=empty, charts=report.charts[:1])))
    assert page.words.count('none found') == 8 and page.all('img')[0]['alt'] == '1.jpg, trained network: nothing'


def test_no_text_becomes_markup(report):
    hostile = render_report(
        replace(
            report,
            record=made_up.record(config=HOSTILE, environment={**made_up.ENVIRONMENT, HOSTILE: HOSTILE}, date=HOSTILE),
            network=HOSTILE,
            operator=HOSTILE,
            training=HOSTILE,
            scenes=[made_up.scene(HOSTILE, HOSTILE)],
            kernels=[layer._replace(layer=HOSTILE, text=HOSTILE) for layer in report.kernels],
            charts=[chart._replace(title=HOSTILE, text=HOSTILE) for chart in report.charts],
            files=[(HOSTILE, HOSTILE)],
        )
    )
    page = Page(hostile)
    assert '<script' not in hostile and page.open == []
    assert page.words.count(HOSTILE) > 15
    assert not [a for _, a in page.elements if any(key.startswith('on') for key in a)]


def test_labels_stay_on_the_image_and_apart():
    boxes = [
        Box(-3, 0, 20, 20, 'rectangle', 0, 0.91),
        Box(0, 2, 20, 20, 'circle', 1, 0.5),
        Box(150, 150, 10, 10, 'a', 2),
    ]
    panel = Panel('trained network', boxes)
    placed = tags(made_up.scene(), panel)
    assert [tag.text for tag in placed] == ['rectangle 0.91', 'circle 0.50', 'a']
    for tag in placed:
        assert tag.left >= 0 and tag.top >= 0 and tag.left + tag.width <= 160 and tag.top + tag.height <= 160
    assert placed[1].top >= placed[0].top + placed[0].height


def test_config_for_own_data(page, text, tmp_path):
    """The config on the page reads a COCO file with its classes, with both base configs that the page names."""
    pytest.importorskip('mmdet')
    from mmengine.registry import DATASETS, init_default_scope
    from PIL import Image

    from mmkerv.engine.config.read import load_config

    root = Path(__file__).resolve().parents[3]
    code = Page(re.search(r'<code id="own-config">.*?</code>', text, re.DOTALL)[0]).words
    for split in ('train', 'val'):
        (tmp_path / split).mkdir()
        Image.new('RGB', (64, 64)).save(tmp_path / split / 'a.jpg')
        categories = [{'id': 3, 'name': 'cat'}, {'id': 9, 'name': 'dog'}]
        box = {'id': 1, 'image_id': 1, 'category_id': 9, 'bbox': [8, 8, 48, 48], 'area': 2304, 'iscrowd': 0}
        images = [{'id': 1, 'file_name': 'a.jpg', 'width': 64, 'height': 64}]
        coco = {'images': images, 'annotations': [box], 'categories': categories}
        (tmp_path / f'{split}.json').write_text(json.dumps(coco))
    for base in ('configs/retinanet_r50_coc.py', 'configs/demo/retinanet_coc_shapes.py'):
        assert base in page.words
        config = code.replace('configs/retinanet_r50_coc.py', str(root / base)).replace('data/mine', str(tmp_path))
        (tmp_path / 'my_detector.py').write_text(config)
        cfg = load_config(str(tmp_path / 'my_detector.py'))
        init_default_scope('mmdet')
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            sample = DATASETS.build(loader.dataset)[0]['data_samples']
            assert sample.gt_instances.labels.tolist() == [1]
        assert cfg.model.bbox_head.num_classes == 2
        assert cfg.test_evaluator.ann_file == f'{tmp_path}/val.json'


def test_record_is_read_as_written(tmp_path):
    made_up.record(plain=made_up.PLAIN).write(tmp_path)
    record = read_record(tmp_path)
    assert record.plain == made_up.PLAIN and tuple(record.parameters) == made_up.record().parameters
    assert list(tmp_path.iterdir()) == [tmp_path / RECORD_FILE]


@pytest.mark.parametrize(
    ('content', 'error', 'words'),
    [
        (None, FileNotFoundError, ['no demo was finished', 'make demo']),
        ('{', ConfigError, ['cannot be read', 'make demo']),
        ('[1]', ConfigError, ['lacks config', 'make demo']),
        ('{"seed": 0}', ConfigError, ['lacks config, options', 'another version', 'make demo']),
    ],
)
def test_bad_record_is_refused(tmp_path, content, error, words):
    if content:
        (tmp_path / RECORD_FILE).write_text(content)
    with pytest.raises(error) as caught:
        write_demo_report(tmp_path)
    assert all(text in str(caught.value) for text in [str(tmp_path), *words])
    assert not (tmp_path / 'report.html').exists()


def test_missing_files_of_a_run(tmp_path):
    made_up.record().write(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'made_up\.py does not exist.*make demo'):
        write_demo_report(tmp_path)


def log(folder, name, lines):
    file = folder / name / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(lines))


def test_curves_are_those_of_the_latest_run(tmp_path):
    log(tmp_path, '20260101_000000', ['{"loss": 9.0, "step": 20}'])
    metrics = {'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_s': 0.1, 'step': 2}
    log(tmp_path, '20260102_000000', ['{"loss": 1.0, "loss_cls": 0.5, "epoch": 1, "step": 20}', json.dumps(metrics)])
    curves = read_curves(tmp_path)
    assert curves.losses == {'loss': Curve('iteration', [20], [1.0]), 'loss_cls': Curve('iteration', [20], [0.5])}
    assert curves.metrics == {'coco/bbox_mAP': Curve('epoch', [2], [0.3])}
    assert [chart.title for chart in training_charts(curves)] == ['Loss', 'Box mAP']


@pytest.mark.parametrize(
    ('lines', 'error', 'message'),
    [
        (None, FileNotFoundError, 'contains no vis_data'),
        (['{"loss": 1'], ConfigError, 'is not a log of mmengine'),
        (['{"loss": 1}'], ConfigError, 'is not a log of mmengine'),
        (['{"coco/bbox_mAP": 0.3, "step": 2}'], ConfigError, 'has no loss'),
    ],
)
def test_bad_log_is_refused(tmp_path, lines, error, message):
    if lines:
        log(tmp_path, 'a', lines)
    with pytest.raises(error, match=message):
        read_curves(tmp_path)
