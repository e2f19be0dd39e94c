"""Curves of training runs, one panel for each thing that is counted."""

from collections.abc import Sequence
from typing import Any

from mmkerv.analysis.logs import Curve


def draw_curves(curves: Sequence[tuple[str, Curve]], title: str | None = None, figure: Any = None) -> Any:
    """Draw curves against iterations and, in a panel of its own, against epochs.

    Args:
        curves: their labels and values.
        title: of the figure.
        figure: matplotlib's, to draw on; by default a new one, which needs no display.

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
                few = len(curve.x) <= 30
                axes.plot(curve.x, curve.y, marker='o' if few else None, markersize=3, linewidth=1.4, label=label)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        # Beside the curves, where it covers none of them however long its names are.
        axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.18), fontsize='small', ncols=1, frameon=False)
    if title:
        figure.suptitle(title)
    return figure
