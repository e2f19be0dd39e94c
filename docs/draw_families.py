"""Draw ``docs/images/families.png``: what each family of operators does to a kernel, computed by the operators.

python docs/draw_families.py
"""

from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mmkerv.ops import CKConv2d, CoCConv2d, DCLSConv2d, KervConv2d

matplotlib.use('Agg')
OUT = Path(__file__).resolve().parent / 'images' / 'families.png'
COLOURS, DIVERGING = ('#3b6fb6', '#c8553d', '#4a9a6a', '#8a5fb0'), 'RdBu_r'


def heat_map(axes: Axes, values: torch.Tensor, title: str, grid: int = 0) -> None:
    """Draw a kernel; ``grid`` is the size of the tiles between which lines are drawn."""
    bound = float(values.abs().max())
    axes.imshow(values, cmap=DIVERGING, vmin=-bound, vmax=bound, interpolation='nearest')
    for edge in range(grid, values.shape[0] if grid else 0, grid or 1):
        axes.axhline(edge - 0.5, color='black', linewidth=1)
        axes.axvline(edge - 0.5, color='black', linewidth=1)
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def tiled(kernels: torch.Tensor) -> torch.Tensor:
    """Lay four kernels (4, h, w) out as (2h, 2w)."""
    return torch.cat([torch.cat(list(pair), 1) for pair in (kernels[:2], kernels[2:])])


@torch.no_grad()
def together(basic: Axes, associated: Axes) -> None:
    """Four kernels of a layer before and after association."""
    layer = CoCConv2d(1, 4, 3, padding=1, super_init='kaiming')
    heat_map(basic, tiled(layer.weight[:, 0]), 'four kernels W', 3)
    heat_map(associated, tiled(layer.kernel()[:, 0]), 'associated: K', 3)


@torch.no_grad()
def other_product(axes: Axes) -> None:
    """Response of one tap to its input, for several kernel functions."""
    x = torch.linspace(-2, 2, 201)
    settings = {
        'convolution': ('linear', {}),
        'polynomial': ('polynomial', dict(degree=2, balance=0.5)),
        'sigmoid': ('sigmoid', {}),
        'gaussian': ('gaussian', dict(gamma=1.0)),
    }
    for colour, (name, (kernel, options)) in zip(COLOURS, settings.items()):
        layer = KervConv2d(1, 1, 1, bias=False, kernel=kernel, **options)
        layer.weight.fill_(1.0)
        axes.plot(x, layer(x.view(-1, 1, 1, 1)).flatten(), color=colour, label=name)
    axes.set_ylim(-2.5, 4)
    axes.set_title('response to x of a tap w = 1', fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc='lower right')
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=8)


@torch.no_grad()
def positions(surface: Axes, taps: Axes) -> None:
    """A continuous kernel, and nine taps at positions between the pixels."""
    layer = CKConv2d(1, 1, 31, padding=15, omega_0=6.0)
    kernel = layer.kernel()[0, 0]
    heat_map(surface, kernel, 'a function of the position')
    layer = DCLSConv2d(1, 1, 3, padding=3, kernel_extent=7)
    moves = torch.randn(layer.positions.shape, generator=torch.Generator().manual_seed(4))
    layer.positions.add_(1.2 * moves.to(layer.positions))
    heat_map(taps, layer.kernel()[0, 0], 'nine taps that move')


def main() -> None:
    """Draw and write the figure."""
    torch.manual_seed(1)
    plt.rcParams['font.size'] = 10
    figure = plt.figure(figsize=(12, 3.4), dpi=110)
    parts = figure.subfigures(1, 3, width_ratios=(1, 0.8, 1), wspace=0.04)
    titles = (
        'Kernels learn together or in parts\nCoC, re-parameterized, weighted, low-rank',
        'Another product\nkervolution, KAN',
        'Kernels from positions\nCKConv, DCLS, SMPConv',
    )
    for part, title in zip(parts, titles):
        part.suptitle(title, fontsize=11)
    grids = [part.subplots(1, count) for part, count in zip(parts, (2, 1, 2))]
    for part in parts:
        part.subplots_adjust(top=0.72, bottom=0.1, left=0.08, right=0.96)
    together(*grids[0])
    other_product(grids[1])
    positions(*grids[2])
    figure.savefig(OUT, facecolor='white')
    print(f'wrote {OUT}')


if __name__ == '__main__':
    main()
