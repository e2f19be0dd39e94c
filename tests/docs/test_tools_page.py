"""docs/tools.md lists every tool and every flag from the tools' own parsers."""

import importlib.util
import re
import sys

import pytest

from tests.docs.blocks import ROOT

TOOL = ROOT / 'tools' / 'analysis_tools' / 'list_tools.py'
PAGE = ROOT / 'docs' / 'tools.md'


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    spec = importlib.util.spec_from_file_location('list_tools', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_up_to_date(tool):
    assert tool.document().strip() in PAGE.read_text(), 'run tools/analysis_tools/list_tools.py --write docs/tools.md'


def test_every_tool_is_on_the_page(tool):
    headings = re.findall(r'^#### (\S+)$', PAGE.read_text(), re.MULTILINE)
    files = [f.name for f in (ROOT / 'tools').rglob('*.py') if '__main__' in f.read_text()]
    assert sorted(headings) == sorted(name for name in files if not name.startswith('list_'))


def test_every_tool_has_its_command(tool):
    text = PAGE.read_text()
    scripts = [script for script in tool.scripts() if 'from mmkerv.cli.' in script.read_text()]
    assert len(scripts) > 20
    for script in scripts:
        name = script.relative_to(ROOT)
        assert re.search(rf'^`mmkerv [a-z -]+`, `python {re.escape(str(name))}`$', text, re.MULTILINE), name


def test_arguments_of_a_parser(tool, tmp_path):
    script = tmp_path / 'tool.py'
    script.write_text(
        'import argparse\n'
        'def main():\n'
        '    parser = argparse.ArgumentParser(description="Do it")\n'
        '    parser.add_argument("--size", "-s", type=int, default=3, help="a|b, default %(default)s")\n'
        '    parser.add_argument("--hidden", help=argparse.SUPPRESS)\n'
        '    parser.add_argument("--pair", nargs=2, metavar=("A", "B"), help="two")\n'
        '    parser.add_argument("--on", action="store_true", help="on")\n'
        '    commands = parser.add_subparsers()\n'
        '    one = commands.add_parser("one", help="the first")\n'
        '    one.add_argument("files", nargs="+", help="files")\n'
        '    parser.parse_args()\n'
        '    raise AssertionError("the tool was run")\n'
    )
    assert list(tool.described(tool.parser_of(script))) == [
        '',
        'Do it',
        '',
        '| argument | meaning |',
        '|---|---|',
        r'| `--size SIZE`, `-s SIZE` | a\|b, default 3 |',
        '| `--pair A B` | two |',
        '| `--on` | on |',
        '',
        'Subcommand `one`: the first',
        '',
        '| argument | meaning |',
        '|---|---|',
        '| `files ...` | files |',
    ]


def test_page_without_markers_is_refused(tool, tmp_path, monkeypatch):
    page = tmp_path / 'tools.md'
    page.write_text('# Tools\n')
    monkeypatch.setattr(sys, 'argv', ['list_tools.py', '--write', str(page)])
    with pytest.raises(OSError, match='has no lines'):
        tool.main()
    assert page.read_text() == '# Tools\n'
