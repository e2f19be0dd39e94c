"""Counts of replaced convolutions, docs/networks.md, and the tool that writes it."""

import importlib.util
import sys
from pathlib import Path

import pytest
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
from mmengine.logging import MMLogger

from mmkerv.distributions import distribution
from mmkerv.ops import CKConv2d, CoCConv2d

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'analysis_tools' / 'list_networks.py'


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(TOOL.parent), *sys.path])
    monkeypatch.delitem(sys.modules, 'count_convolutions', raising=False)
    spec = importlib.util.spec_from_file_location('list_networks', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def counting(tool):
    return importlib.import_module('count_convolutions')


@pytest.fixture
def quiet():
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    yield
    logger.setLevel(level)


def test_convolutions_are_counted_by_kernel(counting):
    shared = CoCConv2d(4, 4, (3, 5))
    model = nn.Sequential(
        shared,
        shared,
        CKConv2d(4, 4, 7, groups=4),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.Conv1d(4, 4, 3),
    )
    assert counting.count(model) == ({'7x7 depthwise': 1, '3x5': 1}, {'3x3 grouped': 1, '1x1': 2})


def test_equal_counts_share_a_row(counting, monkeypatch):
    def build(host, cfg, operator):
        size = 1 if operator == 'KervConv' and host == 'mmseg' else 3
        return nn.Sequential(nn.Conv2d(4, 4, 3) if operator == 'CKConv' else CoCConv2d(4, 4, size))

    monkeypatch.setattr(counting, 'build', build)
    rows = counting.rows([('net', host, host, {}) for host in ('mmdet', 'mmseg', 'mmpretrain')])
    assert [row[:3] for row in rows] == [
        ('net', ('mmdet', 'mmpretrain'), ('CoCConv', 'KervConv')),
        ('net', ('mmdet', 'mmseg', 'mmpretrain'), ('CKConv',)),
        ('net', ('mmseg',), ('CoCConv',)),
        ('net', ('mmseg',), ('KervConv',)),
    ]
    assert rows[0].counts == ({'3x3': 1}, {}) and rows[1].counts == ({}, {'3x3': 1})
    assert counting.table(rows).splitlines()[2] == '| net | mmdet, mmpretrain | CoCConv, KervConv | 1 (3x3: 1) | 0 |'


def test_the_document_is_up_to_date(tool, counting, quiet):
    """Holds for both distributions; the first line of the document names the versions it was written with."""
    text = (ROOT / 'docs' / 'networks.md').read_text()
    _, _, rest = text.partition(f'{tool.BEGIN}\n\n')
    written, end, _ = rest.partition(f'\n\n{tool.common.END}')
    assert end
    versions, counts = counting.document().split('\n', 1)
    written_versions, written_counts = written.split('\n', 1)
    advice = f'run python {TOOL.relative_to(ROOT)} --write docs/networks.md'
    assert counts == written_counts, advice
    if distribution() == 'onedl':
        assert versions == written_versions, advice
    # Every family in every library.
    assert counts.count('CoCConv, CKConv | 17 (7x7: 1, 3x3: 16) | 36 (1x1: 36)') == 1
    assert '| ResNet-50 | mmdet, mmseg, mmpretrain | KervConv | 53 (7x7: 1, 3x3: 16, 1x1: 36) | 0 |' in counts
    assert '| HRNet-w18 | mmdet, mmseg, mmpretrain | CoCConv, CKConv | 265 (3x3: 265) | 40' in counts
    assert '| MobileNetV3-large | mmdet (mmpretrain), mmseg, mmpretrain |' in counts
    assert '| 16 (5x5 depthwise: 6, 3x3: 1, 3x3 depthwise: 9) |' in counts
    assert '| UPerHead | mmseg | KervConv | 12 (3x3: 5, 1x1: 7) |' in counts


@pytest.mark.parametrize(
    ('host', 'cfg', 'kept'),
    [
        ('mmpretrain', dict(type='HRNet', arch='w18'), {'3x3': 4, '1x1': 9}),
        (
            'mmseg',
            dict(type='MobileNetV3', arch='large'),
            {'5x5 depthwise': 2, '3x3': 1, '3x3 depthwise': 2, '1x1': 16},
        ),
    ],
    ids=['hrnet-mmpretrain', 'mobilenetv3-mmseg'],
)
def test_variants_replace_what_upstreams_conv_cfg_does_not_reach(counting, host, cfg, kept, quiet):
    """The gaps of upstream that docs/networks.md lists."""
    assert counting.count(counting.build(host, cfg, 'KervConv')).kept == kept
    ours = {**cfg, 'type': f'mmkerv.{cfg["type"]}'}
    assert counting.count(counting.build(host, ours, 'KervConv')).kept == {}


def test_the_tool_writes_between_the_markers(tool, counting, tmp_path, monkeypatch, capsys, quiet):
    monkeypatch.setattr(counting, 'document', lambda: 'counted')
    file = tmp_path / 'networks.md'
    file.write_text(f'# Head\n{tool.BEGIN}\nold\n{tool.common.END}\ntail\n')
    for _ in range(2):
        monkeypatch.setattr(sys, 'argv', ['list_networks.py', '--write', str(file)])
        tool.main()
        assert file.read_text() == f'# Head\n{tool.BEGIN}\n\ncounted\n\n{tool.common.END}\ntail\n'
    monkeypatch.setattr(sys, 'argv', ['list_networks.py'])
    tool.main()
    assert capsys.readouterr().out.endswith('\ncounted\n')


@pytest.mark.parametrize('content', ['', '<!-- end -->', None])
def test_a_file_without_markers_is_refused(tool, tmp_path, monkeypatch, capsys, content):
    file = tmp_path / 'networks.md'
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(sys, 'argv', ['list_networks.py', '--write', str(file)])
    with pytest.raises(SystemExit, match=r'error: .*networks\.md'):
        tool.common.run(tool.main)
    assert content is None or file.read_text() == content


@pytest.fixture
def census(tool, monkeypatch, quiet):
    for name in ('census', 'census_table'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module('census')


# Of a class in a config: convolutions larger than 1x1, those reached by conv_cfg and by placement, and the others.
REACHED = {
    'mmdet': ('rpn/rpn_r50_fpn_1x_coco.py', {'RPNHead': (1, 0, 1, {}), 'FPN': (4, 4, 4, {})}),
    'mmseg': (
        'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        {'DepthwiseSeparableASPPHead': (6, 1, 6, {}), 'ResNetV1c': (19, 19, 19, {})},
    ),
    'mmpretrain': (
        'convnext/convnext-tiny_32xb128_in1k.py',
        {'ConvNeXt': (22, 0, 18, {'even kernel': 4})},
    ),
}


@pytest.mark.parametrize('library', REACHED)
def test_placement_reaches_what_conv_cfg_does_not(census, library):
    """And the operators are called where the convolutions were."""
    config, expected = REACHED[library]
    counted = census.count(library, config)
    found = {kind.partition('.')[2]: tuple(share.values())[1:] for kind, share in counted['classes'].items()}
    assert {kind: found.get(kind) for kind in expected} == expected
    assert counted['forward'] == 'same'


def test_operators_that_a_network_passes_over_are_found(census):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = self.called = nn.Conv2d(3, 4, 3)
            self.read = nn.Conv2d(4, 4, 3)

        def forward(self, image, mode):
            x = self.called(image)
            return nn.functional.conv2d(x, self.read.weight) if isinstance(self.read, CoCConv2d) else self.read(x)

    model = Reads().to('meta')
    before = census.called(model, ['called', 'read'])
    assert before == {'called', 'read'} and census.forward(model, before) == 'same'
    model.read = CoCConv2d(4, 4, 3, device='meta')
    assert census.forward(model, before) == 'LOST: read (1)'


def test_the_census_goes_on_and_makes_a_table(census, tmp_path, monkeypatch):
    table, counted = importlib.import_module('census_table'), []
    monkeypatch.setattr(census, 'selected_configs', lambda library: ['a.py', 'b.py', 'c.py'])

    def count(library, config):
        counted.append(config)
        if len(counted) == 2:
            raise KeyboardInterrupt
        if config == 'c.py':
            return {'error': 'no'}
        share = census.Share(config, 6, 1, 5, {'even kernel': 1})._asdict()
        return {'classes': {f'{library}.Head': share, 'other.Head': share}, 'forward': 'same'}

    monkeypatch.setattr(census, 'count', count)
    with pytest.raises(KeyboardInterrupt):
        census.run(tmp_path, ['mmdet'])
    with pytest.raises(OSError, match=r'mmdet\.json lacks 2 configs, such as b\.py: give the same command again'):
        table.read(tmp_path, ['mmdet'])
    census.run(tmp_path, ['mmdet', 'mmseg', 'mmpretrain'])
    assert counted[:4] == ['a.py', 'b.py', 'b.py', 'c.py'] and len(counted) == 10
    text = table.document(table.read(tmp_path, ['mmdet', 'mmseg', 'mmpretrain']))
    assert '| mmseg | 2 of 3 | 1 | 0, 1, 0 | 0, 1, 0 | 1 of 6 | 5 of 6 |' in text
    assert '| all | 6 of 9 | 3 | 0, 3, 0 | 0, 3, 0 | 3 of 18 | 15 of 18 |' in text
    assert 'Kept by placement: even kernel: 3.' in text and 'more in 3 of 3 classes' in text
    assert '| mmdet.Head | 6 | 1 | 5 | even kernel: 1 |' in text
