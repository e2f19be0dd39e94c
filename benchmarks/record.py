"""Output of a benchmark: a table on the screen, a JSON file, and a picture."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from bounds import BOUNDS, CUDA_BOUNDS
from machine import Machine
from timing import CONTROL, Ratio

from mmkerv.errors import ArgumentError


def add_arguments(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Add the arguments of all benchmarks."""
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument('--threads', type=int, help="torch's threads on the CPU; default: its own choice")
    parser.add_argument('--repeats', type=int, default=repeats, help='measurements of every form')
    parser.add_argument('--json', type=Path, help='JSON file to write the results to')
    parser.add_argument('--plot', type=Path, help='picture of the ratios to write (.png or .svg)')


def add_numeric_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for number and memory formats."""
    parser.add_argument('--amp', choices=['bfloat16', 'float16'], help='under autocast')
    parser.add_argument('--channels-last', action='store_true', help='parameters and images in that memory format')


class Record:
    """Rows of results with a description of machine, versions and setting.

    Args:
        suite: name of the benchmark.
        args: arguments of the benchmark, including those of :func:`add_arguments`.
        **setting: settings that all rows have in common.
    """

    def __init__(self, suite: str, args: argparse.Namespace, **setting: Any):
        try:
            machine = Machine(args.device, args.threads or torch.get_num_threads()).checked()
        except ArgumentError as error:
            sys.exit(f'error: {error}')
        torch.set_num_threads(machine.threads)
        self.args, self.suite = args, suite
        amp, last = getattr(args, 'amp', None), getattr(args, 'channels_last', False)
        self.setting = {'numbers': f'autocast {amp}' if amp else 'float32', 'channels_last': last, **setting}
        self.facts = machine.facts()
        self.rows: list[dict[str, Any]] = []
        print(
            f'{suite}: {self.about()}\n{"case":28} {"form":26} {"ratio":>7} {"95 %":>13} {"A/A":>6}  bound', flush=True
        )

    def about(self) -> str:
        """Describe hardware, versions, date and setting in one line."""
        facts = self.facts
        versions = ', '.join(f'{name} {facts["versions"][name]}' for name in ('python', 'torch', 'mmkerv'))
        where = f'{facts["hardware"]}, {facts["threads"]} threads' if facts['device'] == 'cpu' else facts['hardware']
        setting = ', '.join(f'{name} {value}' for name, value in self.setting.items() if value not in (False, None))
        return f'{facts["date"]}, {where}, {versions}, commit {facts["commit"]}; {setting}'

    def add(self, case: str, form: str, ratio: Ratio, control: float | None = None, **figures: Any) -> None:
        """Add a ratio, print it, and compare it with its bound if there is one.

        Args:
            case: measured quantity, such as ``resnet50 b16, time``.
            form: measured form.
            ratio: ratio of the form to the reference.
            control: ratio of two identical forms, ``None`` for a quantity without measurement error.
            **figures: further results of the row.
        """
        row = {'case': case, 'form': form, **ratio._asdict(), 'control': control, **figures}
        bound, verdict = self._bound(case, form), ''
        if bound is not None:
            row['bound'] = bound
            row['holds'] = holds(ratio, control, bound)
            verdict = f'{bound:.2f} {"holds" if row["holds"] else "missed"}'
        self.rows.append(row)
        spread = f'{ratio.low:6.3f}-{ratio.high:<6.3f}' if ratio.high > ratio.low else ''
        aside = f'{control:6.3f}' if control is not None else ' ' * 6
        print(f'{case:28} {form:26} {ratio.median:7.3f} {spread:>13} {aside}  {verdict}'.rstrip(), flush=True)

    def note(self, text: str, **figures: Any) -> None:
        """Print a line and add it to the rows with its results."""
        print(text, flush=True)
        self.rows.append({'note': text, **figures})

    def write(self) -> None:
        """Write the JSON file and the picture, if their paths were given."""
        args = self.args
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            record = {'suite': self.suite, 'about': self.about(), 'facts': self.facts, 'setting': self.setting}
            args.json.write_text(json.dumps({**record, 'rows': self.rows}, indent=1) + '\n')
        if args.plot:
            plot(self.rows, f'{self.suite}: {self.about()}', args.plot)

    def _bound(self, case: str, form: str) -> float | None:
        if self.facts['device'] != 'cpu':
            bounds = CUDA_BOUNDS
        else:
            bounds = BOUNDS if self.setting['numbers'] == 'float32' else {}
        if self.setting['channels_last'] or form == CONTROL:
            return None
        return bounds.get((self.suite, case, form), bounds.get((self.suite, case, '*')))


def holds(ratio: Ratio, control: float | None, bound: float) -> bool:
    """Return whether a ratio is within a bound, up to the measurement error of the machine.

    The lower end of its interval may exceed the bound by the difference of two identical forms.
    """
    return ratio.low <= bound + abs((1.0 if control is None else control) - 1)


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with a comparison: no notes, no controls, and no references, which are 1 by definition."""
    ratios = [row for row in rows if 'median' in row and row['form'] != CONTROL]
    return [row for row in ratios if 'seconds' not in row or (row['low'], row['high']) != (1, 1)]


def plot(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw the ratios with their intervals and bounds, one line for each row."""
    import textwrap

    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    shown = compared(rows)[::-1]
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.24 * len(shown)), constrained_layout=True)
    for y, row in enumerate(shown):
        axes.plot([row['low'], row['high']], [y, y], 'C0', linewidth=3, alpha=0.4)
        axes.plot(row['median'], y, 'C0o', markersize=4)
        if 'bound' in row:
            axes.plot(row['bound'], y, 'C3|', markersize=10)
    axes.axvline(1, color='0.6', linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f'{row["case"]}: {row["form"]}' for row in shown], fontsize=7)
    axes.set_xscale('log')
    axes.xaxis.set_major_formatter('{x:g}')
    first, last = axes.get_xlim()
    # On a wider axis, the labels between the powers of ten would overlap.
    axes.xaxis.set_minor_formatter('{x:g}' if last < 4 * first else '')
    axes.set_xlabel('ratio to the reference; red: bound')
    axes.set_title('\n'.join(textwrap.wrap(title, 100)), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
