"""Figures 1 and 2 of the paper, drawn from our records."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import torch

GROUPS = {
    'Kernels': {
        'lenet5': 'convolution',
        'lenet5_kerv': 'polynomial (3, 1)',
        'lenet5_kerv_gaussian': 'gaussian',
        'lenet5_kerv_sigmoid': 'sigmoid',
        'lenet5_kerv_l1': 'L1 norm',
        'lenet5_kerv_l2': 'L2 norm',
    },
    'Hyperparameters (degree, balance)': {
        'lenet5': 'convolution',
        'lenet5_kerv_d2_c05': '2, 0.5',
        'lenet5_kerv_d2': '2, 1',
        'lenet5_kerv_c05': '3, 0.5',
        'lenet5_kerv': '3, 1',
        'lenet5_kerv_learnable': '3, learned',
    },
    'Placement': {
        'lenet5': 'conv-conv',
        'lenet5_kerv_conv': 'kerv-conv',
        'lenet5_conv_kerv': 'conv-kerv',
        'lenet5_kerv': 'kerv-kerv',
    },
}


def plot_convergence(records: dict[str, list[dict[str, Any]]], title: str, path: Path) -> None:
    """Draw Figure 2: test accuracy over epochs and over seconds of training, with a pair of panels for each group.

    A group is left out where it would show one network alone.

    Args:
        records: records of the seeds by config; the first seed is drawn.
        title: name of the setting.
        path: file of the picture.
    """
    groups = {group: configs for group, configs in GROUPS.items() if sum(c in records for c in configs) > 1}
    size = (10, 11 * len(groups) / len(GROUPS))
    figure, panels = plt.subplots(len(groups), 2, figsize=size, constrained_layout=True, squeeze=False)
    for row, (group, configs) in zip(panels, groups.items()):
        for number, (config, label) in enumerate(configs.items()):
            if not records.get(config):
                continue
            record = records[config][0]
            curve = torch.tensor(record['curve']) if record['curve'] else torch.zeros(0, 3)
            best = 'diverged' if record['best'] is None else f'{record["best"]:.2f} %'
            reached = record['to_target']
            row[0].plot(curve[:, 0] / 1200, curve[:, 2], f'C{number}', label=f'{label} ({best})')
            row[1].plot(
                curve[:, 1],
                curve[:, 2],
                f'C{number}',
                label=f'{label} ({reached["seconds"]:.1f} s)' if reached else f'{label} (never)',
            )
        for panel, axis in zip(row, ('epochs', 'seconds of training')):
            panel.axhline(98, color='grey', linewidth=0.5)
            panel.set(xlabel=axis, ylabel='test accuracy (%)', title=group, ylim=(93, 99.6))
            panel.legend(fontsize=7, loc='lower right')
        row[0].set_xlim(0, 20)
        row[1].set_xscale('log')
    figure.suptitle(title)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def plot_filters(filters: dict[str, list[list[float]]], path: Path) -> None:
    """Draw Figure 1: the six filters of the first layer, with a row for each network.

    Args:
        filters: six filters of 25 values for each network, by name.
        path: file of the picture.
    """
    figure, panels = plt.subplots(
        len(filters), 6, figsize=(7, 1.4 * len(filters)), constrained_layout=True, squeeze=False
    )
    for row, (name, weight) in zip(panels, filters.items()):
        for panel, kernel in zip(row, weight):
            panel.imshow(torch.tensor(kernel).view(5, 5), cmap='gray')
            panel.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    figure.savefig(path, dpi=80)
    plt.close(figure)
