"""The documentation builds without warnings, and a warning fails the build."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

for needed in ('sphinx', 'myst_parser', 'furo', 'sphinx_copybutton', 'matplotlib', 'mmdet'):
    pytest.importorskip(needed)


def build(source: Path, target: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html', *options, source, target]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_documentation(tmp_path):
    done = build(ROOT / 'docs', tmp_path)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr[-3000:]
    page = (tmp_path / 'api.html').read_text()
    names = ('ops.KervConv2d', 'ops.CoCConv2d', 'ops.CKConv2d', 'models.convert', 'engine.safe_load')
    assert all(f'id="mmkerv.{name}"' in page for name in names)


WRONG = {
    'absent.md': '[a page](absent.md)',
    'absent-heading': '[a heading](#absent-heading)',
    'absent.png': '![a picture](absent.png)',
    'absent_function': '```{eval-rst}\n.. autofunction:: mmkerv.env.absent_function\n```',
    'absent_thing': '{py:func}`mmkerv.ops.absent_thing`',
    'absent_page': '```{toctree}\nabsent_page\n```',
}


def test_errors_fail_the_build(tmp_path):
    (tmp_path / 'source').mkdir()
    (tmp_path / 'source' / 'index.md').write_text('\n\n'.join(['# Title', *WRONG.values()]))
    conf = (ROOT / 'docs' / 'conf.py').read_text()
    root = 'Path(__file__).resolve().parent.parent'
    assert root in conf
    (tmp_path / 'source' / 'conf.py').write_text(conf.replace(root, f'Path({str(ROOT)!r})'))
    done = build(tmp_path / 'source', tmp_path / 'html')
    assert done.returncode != 0
    assert [words for words in WRONG if words not in done.stderr] == []
