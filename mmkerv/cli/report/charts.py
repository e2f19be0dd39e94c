"""Line charts as SVG to be put into a page: their colours are the page's, so they suit light and dark."""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# matplotlib draws in these, the page replaces them: text and axes, grid, then one for each line.
_INK, _GRID = '#010101', '#020202'
_LINES = ('#030303', '#040404', '#050505')
_STYLES = {_INK: 'currentColor', _GRID: 'var(--line)'} | {c: f'var(--series-{i})' for i, c in enumerate(_LINES, 1)}
# Of ticks.
_STEPS = (1, 2, 4, 5, 10)


class Line(NamedTuple):
    """One line of a chart.

    Args:
        name: for the legend.
        x: positions.
        y: values.
        color: number of its colour, from 0 to 2.
        dashed: whether it is drawn dashed.

    Example:
        >>> Line('loss', [1, 2], [0.5, 0.4]).dashed
        False
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    dashed: bool = False


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, prefix: str) -> str:
    """Draw lines as the text of an ``<svg>`` element; few points are marked, and the legend has the last value.

    Args:
        lines: at least one, of three colours.
        x_label: below the chart.
        y_label: beside it.
        prefix: of the ids in the SVG; no two charts of a page may share it.

    Example:
        >>> line_chart([Line('loss', [1, 2], [0.5, 0.4])], 'iteration', 'loss', 'a')[:4]
        '<svg'
    """
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': prefix, 'font.size': 10}):
        figure = Figure(figsize=(4.7, 3.1), layout='constrained')
        axes = figure.add_subplot()
        for line in lines:
            few = len(line.x) <= 20
            label = f'{line.name} {line.y[-1]:.3g}'
            dashes = '--' if line.dashed else '-'
            marker = ('D' if line.dashed else 'o') if few else ''
            axes.plot(line.x, line.y, dashes, color=_LINES[line.color], label=label, marker=marker, markersize=4)
        axes.set_xlabel(x_label, color=_INK)
        axes.set_ylabel(y_label, color=_INK)
        axes.set_ylim(0, 1.08 * max(max(line.y) for line in lines) or 1)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        axes.tick_params(colors=_INK, length=0)
        axes.grid(color=_GRID, linewidth=0.8, axis='y')
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side == 'bottom')
            spine.set_color(_GRID)
        figure.legend(
            loc='outside upper left', ncols=3 if len(lines) < 4 else 2, frameon=False, labelcolor=_INK, handlelength=1.4
        )
        buffer = io.StringIO()
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    return _for_page(buffer.getvalue(), prefix)


def _for_page(svg: str, prefix: str) -> str:
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg[svg.index('<svg') :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', '', svg, count=2).replace('xlink:href', 'href')
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', svg)
    # The page's own font, and no rule that would hold for the rest of the page.
    svg = re.sub(r'font: ([\d.]+px) [^;"]*', r'font-size: \1', svg)
    svg = re.sub(r' font-family: [^;"]*;?|<style.*?</style>', '', svg, flags=re.DOTALL)
    for drawn, style in _STYLES.items():
        svg = svg.replace(drawn, style)
    return svg
