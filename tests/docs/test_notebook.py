"""The tutorial notebook holds no outputs and runs in a fresh kernel on a CPU."""

import pytest

from tests.docs.blocks import ROOT

nbformat = pytest.importorskip('nbformat')

NOTEBOOK = ROOT / 'demo' / 'mmkerv_tutorial.ipynb'


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_holds_no_output(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert len(cells) >= 8 and not any(cell.outputs or cell.execution_count for cell in cells)


def test_its_links_exist(notebook):
    import re

    text = '\n'.join(cell.source for cell in notebook.cells if cell.cell_type == 'markdown')
    targets = re.findall(r'\]\(([^)#]+)', text)
    assert targets and all((NOTEBOOK.parent / target).is_file() for target in targets)


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    for library in ('torchvision', 'matplotlib'):
        pytest.importorskip(library)
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path))
    nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    text = ''.join(output.get('text', '') for output in outputs)
    assert 'mmkerv: folded 3 operators into plain convolutions; kept 0' in text
    best = max(float(part.split()[0]) for part in text.split('accuracy ')[1:])
    assert best > 0.6, 'chance is a third'
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 4
    assert not any(output.get('name') == 'stderr' for output in outputs)
