"""Time to import mmkerv and to print the help of its tools, each in a fresh process.

The time of an import is what it adds to ``import torch`` within a repeat; that of a tool is its whole duration.

    python benchmarks/startup.py
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Imports as if mmengine were not installed.
_WITHOUT = "import sys; sys.modules['mmengine'] = None; "
TORCH = ['-c', 'import torch']
CASES = {
    'import mmkerv.ops, without mmengine': (['-c', f'{_WITHOUT}import torch, mmkerv.ops'], TORCH),
    'import mmkerv.ops, with mmengine': (['-c', 'import torch, mmkerv.ops'], TORCH),
    'import mmkerv': (['-c', 'import torch, mmkerv'], TORCH),
    'tools/train.py -h': (['tools/train.py', '-h'], None),
    'tools/test.py -h': (['tools/test.py', '-h'], None),
}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    from record import add_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=11)
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, write JSON."""
    from record import Record
    from timing import Ratio, interleaved, interval

    record = Record('startup', parse_args(), unit='seconds')

    # The warm-up repeat writes the byte code, which every later start of a user reads.
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}

    def process(command: list[str]) -> Callable[[], object]:
        whole = [sys.executable, *command]
        return lambda: subprocess.run(whole, cwd=ROOT, check=True, capture_output=True, env=environment)

    forms = {'torch': process(TORCH), 'torch again': process(TORCH)}
    forms |= {case: process(command) for case, (command, _) in CASES.items()}
    times = interleaved(forms, record.args.repeats, seconds=0, warmup=1)

    def beyond(case: str) -> Ratio:
        values = [a - b for a, b in zip(times[case], times['torch'], strict=True)]
        return Ratio(statistics.median(values), *interval(values))

    # The measurement error: the difference of two identical processes.
    control = 1 + beyond('torch again').median
    for case, (_, before) in CASES.items():
        seconds = beyond(case) if before else Ratio(statistics.median(times[case]), *interval(times[case]))
        record.add(case, 'seconds', seconds, control)
    record.write()


if __name__ == '__main__':
    main()
