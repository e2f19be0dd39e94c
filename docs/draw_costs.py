"""Draw ``docs/images/costs.png``: what each operator costs in a whole network, from the records in docs/speed.

python docs/draw_costs.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

matplotlib.use('Agg')
FOLDER = Path(__file__).resolve().parent
OUT = FOLDER / 'images' / 'costs.png'
# Title of a panel, and the records of its training steps; those of inference have the same name and `_inference`.
PANELS = {
    'ResNet-50': ('resnet50_operators', 'resnet50_partial'),
    'ConvNeXt-T': ('convnext_tiny_operators', 'convnext_tiny_depthwise'),
}
# Smallest ratio on the axes.
LEAST = 0.45
SERIES = {'step': ('training step', '#3b6fb6', 'o'), 'deployed': ('inference, folded or frozen', '#c8553d', 's')}


def costs(steps: list[dict[str, Any]], inference: list[dict[str, Any]]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return median and interval of each operator: of a training step, and of inference as it is deployed.

    Deployed is folded, or with frozen kernels where the operator does not fold.

    Args:
        steps: rows of the records of training steps.
        inference: rows of the records of inference.

    Example:
        >>> row = {'form': 'coc', 'median': 1.1, 'low': 1.0, 'high': 1.2}
        >>> folded = {**row, 'case': 'x, inference', 'form': 'coc folded'}
        >>> costs([{**row, 'case': 'x, step'}], [folded])['coc']
        {'step': (1.1, 1.0, 1.2), 'deployed': (1.1, 1.0, 1.2)}
    """

    def times(rows: list[dict[str, Any]], case: str) -> dict[str, tuple[float, ...]]:
        chosen = (row for row in rows if row.get('case', '').endswith(case))
        return {row['form']: (row['median'], row['low'], row['high']) for row in chosen}

    trained, used = times(steps, ', step'), times(inference, ', inference')
    found = {}
    for form, step in trained.items():
        deployed = used.get(f'{form} folded') or used.get(f'{form} frozen')
        if form not in ('plain', 'A/A') and deployed:
            found[form.partition(':')[0]] = {'step': step, 'deployed': deployed}
    return found


def rows_of(names: tuple[str, ...], suffix: str = '') -> list[dict[str, Any]]:
    """Return the rows of these records of docs/speed."""
    files = [FOLDER / 'speed' / f'{name}{suffix}.json' for name in names]
    return [row for file in files for row in json.loads(file.read_text())['rows']]


def draw(axes: Axes, found: dict[str, dict[str, tuple[float, ...]]], title: str) -> None:
    """Draw the operators of a network, the dearest in training on top."""
    order = sorted(found, key=lambda name: found[name]['step'][0])
    for place, name in enumerate(order):
        for shift, (key, (label, colour, marker)) in zip((0.12, -0.12), SERIES.items()):
            median, low, high = found[name][key]
            axes.plot([low, high], [place + shift] * 2, color=colour, alpha=0.4, linewidth=2)
            if low < LEAST:
                # It goes on beyond the axis.
                axes.plot(1.02 * LEAST, place + shift, '<', color=colour, alpha=0.4, markersize=5)
            axes.plot(median, place + shift, marker, color=colour, markersize=5, label='' if place else label)
    axes.axvline(1, color='0.5', linewidth=0.8)
    axes.set_xscale('log')
    axes.set_xlim(LEAST, 45)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20], ['0.5', '1', '2', '5', '10', '20'])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(order)), order, fontsize=9)
    axes.set_title(f'{title}: time relative to the plain network', fontsize=10)
    axes.legend(fontsize=8, loc='lower right')


def main() -> None:
    """Draw a panel for each network."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 4.6), constrained_layout=True)
    for place, (title, names) in zip(axes, PANELS.items()):
        draw(place, costs(rows_of(names), rows_of(names, '_inference')), title)
    figure.savefig(OUT, dpi=110)


if __name__ == '__main__':
    main()
