"""The right part of the paper's Figure 7, drawn from our records."""

import math
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from ablation.claims import Runs, mean, variance
from ablation.settings import OPTIMUM

# The optimum stands in each group of digits, as in the paper.
GROUPS = {
    'sa': ('121', OPTIMUM, '321', '421'),
    'skp': ('201', OPTIMUM, '241', '261'),
    'sl': (OPTIMUM, '222', '223'),
    'skip, dilate, c1x1': (OPTIMUM, 'no_skip', 'no_dilate', 'c1x1'),
    'orth, stnd': (OPTIMUM, 'orth', 'stnd'),
    'without CoC': ('plain', 'plain_orth', 'plain_stnd', 'kerv_stem'),
}


def plot_settings(runs: dict[str, Runs], title: str, path: Path) -> None:
    """Draw validation accuracy over the settings, a row for each backbone and a panel for each group of settings.

    A point is a seed, a bar the mean with two standard errors to each side. Settings that were not run are left empty.

    Args:
        runs: records by backbone and setting; backbones without records have no row.
        title: data, length and start of the runs.
        path: file of the picture.
    """
    backbones = [name for name in runs if any(runs[name].values())]
    widths = [len(settings) for settings in GROUPS.values()]
    figure, rows = plt.subplots(
        *(len(backbones), len(GROUPS)),
        figsize=(14, 0.8 + 3.2 * len(backbones)),
        width_ratios=widths,
        sharey='row',
        squeeze=False,
        constrained_layout=True,
    )
    for row, backbone in zip(rows, backbones):
        for panel, (group, settings) in zip(row, GROUPS.items()):
            for place, setting in enumerate(settings):
                records = runs[backbone].get(setting)
                if records:
                    error = 200 * math.sqrt(variance(records))
                    color = 'C1' if setting == OPTIMUM else 'C0'
                    panel.errorbar(place, mean(records, 'last'), error, fmt='_', color=color, markersize=18, capsize=3)
                    panel.plot([place] * len(records), [r['last'] for r in records], 'o', color=color, markersize=4)
            panel.set_xticks(range(len(settings)), settings, rotation=30, ha='right')
            panel.set_xlim(-0.6, len(settings) - 0.4)
            panel.set_title(group, fontsize=10)
            panel.grid(axis='y', alpha=0.3)
        row[0].set_ylabel(f'{backbone}\nvalidation top-1, %')
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=90)
    plt.close(figure)
