"""Line charts as SVG for an HTML page; they use the colours of the page, light or dark."""

import io
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Placeholders that matplotlib draws with and the colours of the page replace: text and axes, grid, one for each line.
_INK, _GRID = '#010101', '#020202'
_LINES = ('#030303', '#040404', '#050505', '#060606', '#070707', '#080808')
COLORS = len(_LINES)
_PAGE_COLORS = {_INK: 'currentColor', _GRID: 'var(--line)'} | {
    color: f'var(--series-{number})' for number, color in enumerate(_LINES, 1)
}
# Letters of a name beside which the legend has no other.
_LONG_NAME = 24
# In inches; two charts stand side by side on the page.
_SIZE = (4.7, 3.1)
# A line of at most so many points gets markers.
_MARKED_POINTS = 20
# Height of the axis relative to the highest value.
_HEADROOM = 1.08
# Steps between ticks, times a power of ten.
_TICK_STEPS = (1, 2, 4, 5, 10)


class Line(NamedTuple):
    """One line of a chart.

    Args:
        name: name in the legend.
        x: positions.
        y: values.
        color: number of the colour, from 0 to 5.
        dashed: draw it dashed.

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
    """Draw lines as the text of an ``<svg>`` element; the legend shows their last values.

    Values that are not finite leave a gap.

    Args:
        lines: at least one line.
        x_label: label below the chart.
        y_label: label beside the chart.
        prefix: prefix of the ids in the SVG; each chart of a page needs its own.

    Example:
        >>> line_chart([Line('loss', [1, 2], [0.5, 0.4])], 'iteration', 'loss', 'a')[:4]
        '<svg'
    """
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': prefix, 'font.size': 10}):
        figure = Figure(figsize=_SIZE, layout='constrained')
        axes = figure.add_subplot()
        for line in lines:
            label = f'{line.name} {line.y[-1]:.3g}'
            style, marker = ('--', 'D') if line.dashed else ('-', 'o')
            if len(line.x) > _MARKED_POINTS:
                marker = ''
            y = [value if math.isfinite(value) else math.nan for value in line.y]
            axes.plot(line.x, y, style, color=_LINES[line.color], label=label, marker=marker, markersize=4)
        axes.set_xlabel(x_label, color=_INK)
        axes.set_ylabel(y_label, color=_INK)
        axes.set_ylim(*_limits(lines))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=_TICK_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_TICK_STEPS))
        axes.tick_params(colors=_INK, length=0)
        axes.grid(color=_GRID, linewidth=0.8, axis='y')
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side == 'bottom')
            spine.set_color(_GRID)
        # A long name needs a line of its own.
        columns = 1 if any(len(line.name) > _LONG_NAME for line in lines) else 3 if len(lines) < 4 else 2
        figure.legend(loc='outside upper left', ncols=columns, frameon=False, labelcolor=_INK, handlelength=1.4)
        buffer = io.StringIO()
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    return _for_page(buffer.getvalue(), prefix)


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    """Return the ends of the axis of the values, which holds 0; a training that diverged logs NaN or infinity."""
    finite = [value for line in lines for value in line.y if math.isfinite(value)]
    low, high = min(0, *finite, 0), max(0, *finite, 0)
    # All values may be 0.
    return (_HEADROOM * low, _HEADROOM * high) if low < high else (0, 1)


def _for_page(svg: str, prefix: str) -> str:
    """Adapt matplotlib's SVG document to be an element of an HTML page."""
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg[svg.index('<svg') :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', '', svg, count=2).replace('xlink:href', 'href')
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', svg)
    # The page's font is used, and no style rule may affect the rest of the page.
    svg = re.sub(r'font: ([\d.]+px) [^;"]*', r'font-size: \1', svg)
    svg = re.sub(r' font-family: [^;"]*;?|<style.*?</style>', '', svg, flags=re.DOTALL)
    for placeholder, color in _PAGE_COLORS.items():
        svg = svg.replace(placeholder, color)
    return svg
