"""Curves of training runs, with a panel for iterations and one for epochs."""

from collections.abc import Sequence
from typing import Any

from mmkerv.analysis.logs import Curve

# Points up to which each point of a curve is marked.
MARKED = 30


def draw_curves(curves: Sequence[tuple[str, Curve]], title: str | None = None, figure: Any = None) -> Any:
    """Draw curves over iterations and, in a separate panel, over epochs.

    Args:
        curves: labels and values.
        title: title of the figure.
        figure: figure of matplotlib to draw on; by default a new one, which needs no display.

    Returns:
        The figure; ``figure.savefig('curves.png')`` writes it.

    Example:
        >>> figure = draw_curves([('a loss', Curve('iteration', [1, 2], [3.0, 2.0]))])
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['iteration']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    units = [unit for unit in ('iteration', 'epoch') if any(curve.unit == unit for _, curve in curves)]
    figure = figure or Figure(dpi=120, layout='constrained')
    figure.set_size_inches(8, 1 + 3.5 * len(units))
    panels = figure.subplots(len(units), squeeze=False)[:, 0]
    for unit, axes in zip(units, panels):
        for label, curve in curves:
            if curve.unit == unit:
                marker = 'o' if len(curve.x) <= MARKED else None
                axes.plot(curve.x, curve.y, marker=marker, markersize=3, linewidth=1.4, label=label)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        # Below the panel, where it covers no curve however long the labels are.
        axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.18), fontsize='small', ncols=1, frameon=False)
    if title:
        figure.suptitle(title)
    return figure
