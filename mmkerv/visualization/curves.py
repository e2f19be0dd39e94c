"""Curves of training runs, with a panel for iterations and one for epochs."""

from collections.abc import Sequence
from typing import Any

from mmkerv.analysis.logs import Curve

# Points up to which each point of a curve is marked.
MARKED = 30


def draw_curves(
    curves: Sequence[tuple[str, Curve]],
    title: str | None = None,
    figure: Any = None,
    kinds: Sequence[str] | None = None,
) -> Any:
    """Draw curves over iterations and, in a separate panel, over epochs.

    Args:
        curves: labels and values.
        title: title of the figure.
        figure: figure of matplotlib to draw on; by default a new one, which needs no display.
        kinds: what each curve shows; those of different kinds have panels of their own. By default all are alike.

    Returns:
        The figure; ``figure.savefig('curves.png')`` writes it.

    Example:
        >>> figure = draw_curves([('a loss', Curve('iteration', [1, 2], [3.0, 2.0]))])
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['iteration']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kinds = kinds or [''] * len(curves)
    groups = [
        (kind, unit)
        for kind in dict.fromkeys(kinds)
        for unit in ('iteration', 'epoch')
        if any(curve.unit == unit and kind == other for (_, curve), other in zip(curves, kinds))
    ]
    figure = figure or Figure(dpi=120, layout='constrained')
    figure.set_size_inches(8, 1 + 3.5 * len(groups))
    panels = figure.subplots(len(groups), squeeze=False)[:, 0]
    for (kind, unit), axes in zip(groups, panels):
        for (label, curve), other in zip(curves, kinds):
            if curve.unit == unit and kind == other:
                marker = 'o' if len(curve.x) <= MARKED else None
                axes.plot(curve.x, curve.y, marker=marker, markersize=3, linewidth=1.4, label=label)
        axes.set_xlabel(unit)
        axes.set_ylabel(kind)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        # Below the panel, where it covers no curve however long the labels are.
        axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.18), fontsize='small', ncols=1, frameon=False)
    if title:
        figure.suptitle(title)
    return figure
