"""Every test that docs/robustness.md names exists."""

import re

import pytest

from tests.docs.blocks import ROOT

TEST = re.compile(r'`(tests/[\w/]+\.py)(?:::(\w+))?`')
GUARANTEES = (ROOT / 'docs' / 'robustness.md').read_text().partition('| guarantee | test |')[2]


def missing(text: str) -> list[str]:
    """List the tests named in a text of which the file, or the function in it, does not exist."""
    absent = []
    for file, function in TEST.findall(text):
        path = ROOT / file
        pattern = rf'^def {function}\b' if function else r'^\s*def test_'
        if not path.is_file() or not re.search(pattern, path.read_text(), re.MULTILINE):
            absent.append(f'{file}::{function}' if function else file)
    return absent


def test_named_tests_exist():
    rows = GUARANTEES.strip().splitlines()[1:]
    assert len(rows) >= 10 and all(TEST.search(row) for row in rows)
    assert missing(GUARANTEES) == []


@pytest.mark.parametrize(
    'name', ['tests/tools/test_absent.py', 'tests/tools/test_cli.py::test_absent', 'tests/tool_process.py']
)
def test_wrong_names_are_found(name):
    assert missing(f'| a guarantee | `tests/tools/test_cli.py`, `{name}` |') == [name]
