"""Upstream's own tests of backbones, necks and heads, with an operator in place of plain convolutions.

python benchmarks/upstream_tests.py CHECKOUT --operator coc [--files tests/test_models/test_necks] [--json FILE]

CHECKOUT is a folder with the tests of mmdetection, mmsegmentation or mmpretrain: a checkout, or its `tests` alone. In a
whole checkout, whose tests import the library beside them, that library is tested instead of the installed one.

Every test runs twice, plain and with the operator, each time in a process of its own. In the second one,
`mmcv.cnn.build_conv_layer` is replaced, also under every name that has imported it, by a function that builds the
operator where `cfg` is `None`, which is upstream's default, and the operator has the layer's shape: CoCConv and CKConv
have no even sizes. Nothing else is changed. The script lists the tests that fail with the operator only. Such a failure
is not always a fault: some tests state the class or the number of parameters of a layer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Of the three libraries; those that a checkout has are run.
FILES = (
    'tests/test_models/test_backbones',
    'tests/test_models/test_necks',
    'tests/test_models/test_necks.py',
    'tests/test_models/test_heads',
    'tests/test_models/test_heads.py',
    'tests/test_models/test_dense_heads',
    'tests/test_models/test_roi_heads',
)
# How the two processes are told what to do: pytest hands no arguments of ours to a plugin.
OPERATOR, OUTCOMES = 'MMKERV_UPSTREAM_OPERATOR', 'MMKERV_UPSTREAM_OUTCOMES'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkout', type=Path, help='folder that holds upstream\'s "tests"')
    parser.add_argument('--operator', default='coc', help="short name of an operator: coc, kerv, ck; default: 'coc'")
    parser.add_argument('--files', nargs='+', help='files or folders below CHECKOUT; default: backbones, necks, heads')
    parser.add_argument('--json', type=Path, help='file for every outcome')
    parser.add_argument('--timeout', type=float, help='seconds for each of the two runs; default: no limit')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run both, print the comparison; returns 1 if tests fail with the operator only."""
    args = parse_args(argv)
    sys.path.insert(0, str(HERE.parent))
    operator_named(args.operator)
    files = args.files or [name for name in FILES if (args.checkout / name).exists()]
    absent = [name for name in files if not (args.checkout / name).exists()]
    if absent or not files:
        sys.exit(f'error: {args.checkout} has no {", ".join(absent or FILES)}; give a folder that holds "tests"')
    plain = outcomes(args.checkout, files, '', args.timeout)
    changed = outcomes(args.checkout, files, args.operator, args.timeout)
    only = print_comparison(plain, changed, args.operator)
    if args.json:
        args.json.write_text(json.dumps({'operator': args.operator, 'plain': plain, 'changed': changed}, indent=1))
    return int(bool(only))


def outcomes(checkout: Path, files: list[str], operator: str, timeout: float | None) -> dict[str, dict[str, str]]:
    """Run pytest in a process of its own; return the outcome and message of every test by its id."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, 'outcomes.json')
        path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get('PYTHONPATH', '')])
        variables = {**os.environ, 'PYTHONPATH': path, OPERATOR: operator, OUTCOMES: str(record)}
        # Not `-m pytest`, which would put the checkout, and with it its library, at the start of the path.
        code = 'import sys, pytest; sys.path[:] = filter(None, sys.path); sys.exit(pytest.main(sys.argv[1:]))'
        command = [sys.executable, '-c', code, '-q', '-p', 'upstream_tests', '-p', 'no:cacheprovider']
        command += ['--continue-on-collection-errors', *files]
        run = subprocess.run(
            command, cwd=checkout, env=variables, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if not record.exists():
            sys.exit(f'error: pytest did not run:\n{run.stdout.decode(errors="replace")[-2000:]}')
        return json.loads(record.read_text())


def print_comparison(plain: dict, changed: dict, operator: str) -> list[str]:
    """Print the counts and the tests that fail with the operator only; returns these."""
    plain.pop('layers')
    layers = changed.pop('layers')['message']
    passed = [name for name, found in plain.items() if found['outcome'] == 'passed']
    failing = [name for name, found in plain.items() if found['outcome'] == 'failed']
    only = [name for name, found in changed.items() if found['outcome'] == 'failed' and name not in failing]
    both = [name for name in passed if changed.get(name, {}).get('outcome') == 'passed']
    counts = f'{len(both)} pass in both, {len(failing)} fail plain, {len(only)} fail with {operator} only'
    print(f'{len(plain)} tests: {counts}')
    skipped = Counter(found['outcome'] for found in plain.values())['skipped']
    print(f'{skipped} are skipped; {layers} layers were built as operators')
    for name in only:
        print(f'{name}\n    {changed[name]["message"]}')
    return only


def operator_named(short_name: str) -> Any:
    """Return the config-facing class of an operator by its short name."""
    from mmkerv import ops

    # The names that configs use: KervConv1d and KervConv3d share KervConv's short name.
    kinds = [getattr(ops, name) for name in ops.__all__ if name.endswith('Conv')]
    images = {kind.short_name: kind for kind in kinds if getattr(kind, 'short_name', '')}
    if short_name not in images:
        sys.exit(f'error: --operator: there is no {short_name!r}; use one of {", ".join(images)}')
    return images[short_name]


class Recorder:
    """Pytest plugin that writes the outcome of every test to a file."""

    def __init__(self, path: str, layers: Counter) -> None:
        self.path, self.layers = Path(path), layers
        self.found: dict[str, dict[str, str]] = {}

    def pytest_collectreport(self, report: Any) -> None:
        """Record a file that cannot be imported as a failed test."""
        if report.failed:
            self.note(report, 'failed')

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Record a test; a failure while it is set up or torn down counts as one of the test."""
        if report.when == 'call' or report.outcome != 'passed':
            self.note(report, report.outcome)

    def note(self, report: Any, outcome: str) -> None:
        """Record an outcome and the first line of its message."""
        lines = [line for line in str(report.longrepr or '').splitlines() if line.startswith('E ')]
        self.found[report.nodeid] = {'outcome': outcome, 'message': lines[0][1:].strip() if lines else ''}

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        self.found['layers'] = {'outcome': 'count', 'message': str(self.layers['operators'])}
        self.path.write_text(json.dumps(self.found))


def pytest_configure(config: Any) -> None:
    """Begin to record, and put the operator in before the tests import the libraries."""
    layers: Counter = Counter()
    if OUTCOMES in os.environ:
        config.pluginmanager.register(Recorder(os.environ[OUTCOMES], layers))
    if os.environ.get(OPERATOR):
        put_in(operator_named(os.environ[OPERATOR]), layers)


def put_in(kind: Any, layers: Counter) -> None:
    """Let `mmcv.cnn.build_conv_layer` build the operator by default, in this process."""
    import mmcv.cnn
    from torch import nn

    from mmkerv.models.replacement import Operator

    plain, operator = mmcv.cnn.build_conv_layer, Operator(kind, {}, kind.__name__)

    def build_conv_layer(cfg: dict | None, *args: Any, **kwargs: Any) -> nn.Module:
        if cfg is not None:
            return plain(cfg, *args, **kwargs)
        try:
            layer = kind(*args, **kwargs)
        except ValueError:
            # Wrong arguments fail here too.
            conv = plain(cfg, *args, **kwargs)
            if not operator.lacks_even_size(conv):
                raise
            return conv
        layers['operators'] += type(layer) is not nn.Conv2d
        return layer

    for module in list(sys.modules.values()):
        if getattr(module, 'build_conv_layer', None) is plain:
            module.build_conv_layer = build_conv_layer


if __name__ == '__main__':
    sys.exit(main())
