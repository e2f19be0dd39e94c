"""The papers' tables: every row has a config that names it, its figures in a metafile, and a line in the docs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip('yaml')

ROOT = Path(__file__).resolve().parents[2]


def models():
    """Read every model of the metafiles, with values as strings."""
    index = yaml.load((ROOT / 'model-index.yml').read_text(), yaml.BaseLoader)
    return [m for name in index['Import'] for m in yaml.load((ROOT / name).read_text(), yaml.BaseLoader)['Models']]


MODELS = models()
DOCUMENT = (ROOT / 'docs' / 'results.md').read_text()
TRANSFERRED = [
    m
    for m in MODELS
    if m['In Collection'] == 'Convolution of Convolution' and re.search('Table [23]', m['Results'][0]['Source'])
]


def name(model):
    return model['Name']


def head(config):
    lines = (ROOT / config).read_text().splitlines()
    return ' '.join(line.removeprefix('#').strip() for line in lines if line.startswith('#'))


def test_every_row_of_the_coc_paper_is_there():
    rows = {}
    for model in MODELS:
        if model['In Collection'] == 'Convolution of Convolution':
            (result,) = model['Results']
            table, row = re.fullmatch(r'published, Table (\d), row (\d+)', result['Source']).groups()
            rows.setdefault(int(table), []).append(int(row))
    assert rows == {1: list(range(1, 21)), 2: list(range(1, 9)), 3: list(range(1, 13))}


@pytest.mark.parametrize('model', MODELS, ids=name)
def test_figures_are_at_the_head_of_the_config(model):
    """Metafile and config agree: table, row and every published figure."""
    text = head(model['Config'])
    assert Path(model['Config']).stem == model['Name']
    for result in model['Results']:
        if result['Source'].startswith('ours'):
            continue
        place = result['Source'].removeprefix('published, ').removeprefix('section')
        assert all(part.strip() in text for part in re.split(r',| and ', place)), place
        for value in result['Metrics'].values():
            assert re.search(rf'(?<![\d.]){re.escape(value)}(?!\d)', text), f'{value} is not in the head of the config'


def test_document_is_up_to_date():
    tool = ROOT / 'tools' / 'analysis_tools' / 'list_results.py'
    done = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in DOCUMENT, 'run tools/analysis_tools/list_results.py --write docs/results.md'
    assert done.stdout.count('not run') >= 40


def test_document_without_markers_is_refused(tmp_path):
    document = tmp_path / 'results.md'
    document.write_text('# Results\n')
    tool = ROOT / 'tools' / 'analysis_tools' / 'list_results.py'
    done = subprocess.run([sys.executable, tool, '--write', document], capture_output=True, text=True)
    assert done.returncode == 1 and 'has no lines' in done.stderr and document.read_text() == '# Results\n'


@pytest.mark.parametrize('model', TRANSFERRED, ids=name)
def test_commands_of_tables_2_and_3_begin_with_the_pretraining(model):
    """A row's command is the paper's: it starts from the checkpoint that the command before it writes."""
    row = next(line for line in DOCUMENT.splitlines() if line.startswith(f'| [{model["Name"]}]'))
    commands = re.findall(r'`([^`]+)`', row)
    assert model['Config'] in commands[-1]
    if 'scratch' in model['Name']:
        assert len(commands) == 1 and 'init_cfg=None' in (ROOT / model['Config']).read_text()
        return
    pretraining, training = commands
    classifier = Path(pretraining.split()[1])
    checkpoint = f'work_dirs/{classifier.stem}/epoch_100.pth'
    assert (ROOT / classifier).is_file() and classifier.parent.name == 'imagenet'
    assert checkpoint in training or checkpoint in (ROOT / model['Config']).read_text()
