"""Draw ``docs/images/gains.png``: gain against cost of each operator, from the records of our own runs.

The gain is the difference from the plain network in docs/which_operator, with its interval; a hollow point is
undecided, a cross is of one seed.
The cost is the time of a training step of ResNet-50 relative to the plain one, in docs/speed.

python docs/draw_gains.py
"""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

matplotlib.use('Agg')
FOLDER = Path(__file__).resolve().parent
OUT = FOLDER / 'images' / 'gains.png'
STEPS = FOLDER / 'speed' / 'resnet50_operators.json'
TASKS = {
    'detection': 'detection, shapes: box mAP',
    'segmentation': 'segmentation, shapes: mIoU',
    'tiny_imagenet_20': '20 classes of Tiny ImageNet: top-1',
    'cifar10_small': '5,000 images of CIFAR-10: top-1',
}


def step_times(record: dict[str, Any]) -> dict[str, float]:
    """Return the time of a training step relative to the plain network, by the short name of the operator.

    Example:
        >>> step_times({'rows': [{'case': 'resnet50 b2 224, step', 'form': 'coc', 'median': 1.1}]})
        {'coc': 1.1}
    """
    rows = (row for row in record['rows'] if row.get('case', '').endswith(', step'))
    return {row['form']: row['median'] for row in rows if row['form'] not in ('plain', 'A/A')}


def points(times: dict[str, float], results: dict[str, Any]) -> list[tuple[str, float, dict[str, Any]]]:
    """Return operator, cost and difference of those that were measured and trained with the defaults everywhere.

    Example:
        >>> row = {'operator': 'coc', 'difference': {'mean': 0.1, 'low': 0.0, 'high': 0.2, 'verdict': 'undecided'}}
        >>> [(name, cost) for name, cost, _ in points({'coc': 1.1}, {'rows': [row]})]
        [('coc', 1.1)]
    """
    found = ((row['operator'], row['difference']) for row in results['rows'])
    return [(name, times[name], gain) for name, gain in found if name in times and gain]


def draw(axes: Axes, shown: list[tuple[str, float, dict[str, Any]]], title: str) -> None:
    """Draw the points of a task; those far below the plain network are named at the lower edge."""
    heights = [gain['mean'] for _, _, gain in shown]
    floor = -1.5 * max(abs(height) for height in sorted(heights, key=abs)[: max(1, len(heights) - 1)])
    tops = [max(height, floor) for height in heights]
    above: list[tuple[float, float]] = []
    for name, cost, gain in sorted(shown, key=lambda point: point[1]):
        has_interval, y, color = gain['low'] is not None, max(gain['mean'], floor), '#3b6fb6'
        if y > gain['mean']:
            name = f'{name}: {gain["mean"]:.2g}, below'
        elif has_interval:
            axes.plot([cost, cost], [gain['low'], gain['high']], color=color, alpha=0.4, linewidth=2)
        decided = has_interval and (gain['low'] > 0 or gain['high'] < 0)
        axes.plot(cost, y, 'o' if has_interval else 'x', color=color, markerfacecolor=color if decided else 'white')
        # Below the point where the name of one to the left would be written over.
        near = 0.05 * (max(tops) - min(tops))
        is_crowded = any(cost < 1.35 * x and abs(y - height) < near for x, height in above)
        if not is_crowded:
            above.append((cost, y))
        axes.annotate(name, (cost, y), xytext=(5, -12 if is_crowded else 4), textcoords='offset points', fontsize=8)
    axes.axhline(0, color='0.5', linewidth=0.8)
    axes.set_xscale('log')
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter('{x:g}')
    axes.xaxis.set_minor_formatter('{x:g}')
    axes.tick_params(labelsize=8)
    axes.tick_params(axis='x', which='minor', labelsize=7)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel('training step of ResNet-50, relative to plain', fontsize=8)
    axes.set_ylabel('difference from plain', fontsize=8)


def main() -> None:
    """Draw all tasks that have results."""
    times = step_times(json.loads(STEPS.read_text()))
    files = {name: FOLDER / 'which_operator' / f'{name}.json' for name in TASKS}
    panels = {name: points(times, json.loads(file.read_text())) for name, file in files.items() if file.is_file()}
    panels = {name: shown for name, shown in panels.items() if shown}
    # Two in a row, so that the names can be read at the width of a page.
    rows, columns = math.ceil(len(panels) / 2), min(len(panels), 2)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.6 * rows), constrained_layout=True, squeeze=False
    )
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    for place, (name, shown) in zip(axes.flat, panels.items()):
        draw(place, shown, TASKS[name])
    figure.savefig(OUT, dpi=120)


if __name__ == '__main__':
    main()
