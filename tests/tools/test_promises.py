"""docs/promises.md: every promise names tests that are there, and its figures are those of the runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip('yaml')

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'analysis_tools' / 'list_promises.py'
TESTS = [
    test
    for section in yaml.safe_load((ROOT / 'tests' / 'promises.yml').read_text())
    for promise in section['promises']
    for test in promise['tests']
]
RUN = """<testsuites><testsuite timestamp="2026-02-03T10:00:00+00:00">
<testcase classname="tests.contract.test_leaks" name="test_long[a]"><properties>
<property name="cases" value="2000"/></properties></testcase>
<testcase classname="tests.contract.test_leaks" name="test_short"/>
<testcase classname="tests.contract.test_leaks" name="test_other"><failure message="no"/></testcase>
<testcase classname="tests.contract.test_leaks" name="test_gpu"><skipped message="no GPU"/></testcase>
<testcase classname="tests.contract.test_leaks_of_others" name="test_short"/>
</testsuite></testsuites>"""


@pytest.mark.parametrize('test', TESTS)
def test_the_named_test_is_there(test):
    file, _, name = test.partition('::')
    assert re.search(rf'^(?:def|class) {name}\b' if name else 'def test', (ROOT / file).read_text(), re.MULTILINE), test


def test_figures_are_those_of_the_run(tmp_path):
    (tmp_path / 'nightly.xml').write_text(RUN)
    done = subprocess.run([sys.executable, TOOL, tmp_path / 'nightly.xml'], capture_output=True, text=True, check=True)
    (row,) = [line for line in done.stdout.splitlines() if 'test_leaks.py' in line]
    assert 'Runs: *nightly* 2026-02-03, 3 tests passed, 1 failed, 1 were skipped.' in done.stdout
    assert row.endswith('| `tests/contract/test_leaks.py` | nightly: 2,002 | 1 |')
    assert done.stdout.count('| not run |  |') == done.stdout.count('\n| ') - done.stdout.count('\n| promise') - 1


def test_what_is_no_result_is_refused(tmp_path):
    (tmp_path / 'a.xml').write_text('<testsuites')
    done = subprocess.run([sys.executable, TOOL, tmp_path / 'a.xml'], capture_output=True, text=True)
    assert done.returncode == 1 and 'error: ' in done.stderr and 'is no result of a test run' in done.stderr
