"""Table of what mmkerv promises and what the tests of it gave: ``list_promises.py RESULTS.xml ... [--write FILE]``."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import cli

ROOT = Path(__file__).resolve().parents[2]
PROMISES = ROOT / 'tests' / 'promises.yml'
BEGIN = '<!-- begin: tools/analysis_tools/list_promises.py -->'
COLUMNS = ('promise', 'test', 'cases tried', 'failures')


class Case(NamedTuple):
    """One test of a run: the name pytest gives it, what became of it, and how many inputs it tried by itself."""

    name: str
    state: str
    tried: int


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Print, as markdown, every promise of tests/promises.yml with the cases that its tests tried, from '
        "the results of test runs (pytest's --junitxml; make test, test-openmmlab and test-long write "
        'work_dirs/junit/*.xml)'
    )
    parser.add_argument('results', nargs='+', help='results of test runs, one file each')
    parser.add_argument('--write', metavar='FILE', help=f'put it into FILE behind {BEGIN}')
    return parser.parse_args()


def promises() -> list[dict]:
    """Return the sections of tests/promises.yml: a title and its promises, each with the tests that hold it."""
    import yaml

    return yaml.safe_load(PROMISES.read_text())


def read(file: str) -> tuple[list[Case], str]:
    """Return the cases of a run and its date; a test that records the property ``cases`` counts as so many."""
    from xml.etree import ElementTree

    try:
        tree = ElementTree.parse(file)
    except ElementTree.ParseError as error:
        raise OSError(
            f'{file!r} is no result of a test run ({error}); write one with pytest --junitxml={file}'
        ) from error
    started = [suite.get('timestamp', '') for suite in tree.iter('testsuite')]
    return [_case(element) for element in tree.iter('testcase')], min(started, default='').partition('T')[0]


def described(name: str, cases: list[Case], date: str) -> str:
    """Say when a run was and what came of all its tests, promised or not."""
    states = Counter(case.state for case in cases)
    bad = states['failure'] + states['error']
    return f'*{name}* {date}, {states["passed"]:,} tests passed, {bad} failed, {states["skipped"]} were skipped'


def _case(element) -> Case:
    states = [state for state in ('failure', 'error', 'skipped') if element.find(state) is not None]
    tried = [int(p.get('value')) for p in element.iter('property') if p.get('name') == 'cases']
    name = f'{element.get("classname")}.{element.get("name")}'
    return Case(name, states[0] if states else 'passed', tried[0] if tried else 1)


def of_test(cases: Iterable[Case], test: str) -> Iterator[Case]:
    """Yield the cases of a test named as in ``tests/ops/coc/test_module.py`` or ``tests/ops/coc/test_module.py::test_name``."""
    name = test.replace('.py', '').replace('::', '.').replace('/', '.')
    for case in cases:
        if case.name.startswith(name) and case.name[len(name) : len(name) + 1] in ('', '.', '['):
            yield case


def table(runs: dict[str, list[Case]]) -> str:
    """Return the sections as tables; the figures of several runs stand one after the other, by name of the run."""
    lines = []
    for section in promises():
        lines += [f'\n## {section["title"]}\n', f'| {" | ".join(COLUMNS)} |', f'|{"---|" * len(COLUMNS)}']
        for promise in section['promises']:
            tried, failed = [], 0
            for run, cases in runs.items():
                found = [case for test in promise['tests'] for case in of_test(cases, test) if case.state != 'skipped']
                failed += sum(case.state != 'passed' for case in found)
                if found:
                    tried.append(f'{run}: {sum(case.tried for case in found):,}')
            tests = ', '.join(f'`{test}`' for test in promise['tests'])
            lines.append(
                f'| {promise["text"]} | {tests} | {"; ".join(tried) or "not run"} | {failed if tried else ""} |'
            )
    return '\n'.join(lines)


def main() -> None:
    """Read, count, print or write."""
    args = parse_args()
    output = cli.between_markers(args.write, BEGIN) if args.write else print
    runs = {Path(file).stem: read(file) for file in args.results}
    heads = '; '.join(described(name, *run) for name, run in runs.items())
    output(f'Runs: {heads}.\n{table({name: cases for name, (cases, _) in runs.items()})}')


if __name__ == '__main__':
    cli.run(main)
