"""Pictures of images and maps: the input image of a network, panels side by side, files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmkerv.engine.checkpoint.atomic_write import atomic_path
from mmkerv.errors import ConfigError

SUFFIXES = ('.png', '.svg', '.pdf', '.jpg')
# Inches: height of a panel (288 pixels at this resolution) and of its title.
PANEL, HEADING, DPI = 2.4, 0.3, 120


def picture_path(path: str | Path, flag: str = '--save-path') -> Path:
    """Return the path of a picture if its format is supported, as a check before long computations.

    Raises:
        ConfigError: if the suffix is not that of a supported format.

    Example:
        >>> picture_path('cam.png').name
        'cam.png'
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f'{flag} must end in {", ".join(SUFFIXES)}, got {str(path)!r}')
    return path


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically in the format of the path's suffix; missing folders are created.

    Example:
        >>> import tempfile
        >>> save_figure(Figure(), Path(tempfile.mkdtemp()) / 'empty.svg')
    """
    with atomic_path(path) as temporary:
        kind = picture_path(path).suffix[1:].lower()
        figure.savefig(temporary, format=kind, dpi=DPI, bbox_inches='tight', pad_inches=0.06)


def save_arrays(path: str | Path, **arrays: Any) -> None:
    """Write arrays atomically to a compressed ``.npz`` file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / 'map.npz'
        >>> save_arrays(file, map=np.ones((2, 2)))
        >>> float(np.load(file)['map'].sum())
        4.0
    """
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        np.savez_compressed(file, **arrays)


def valid_size(inputs: Tensor, sample: Any = None) -> tuple[int, int]:
    """Return height and width of the image in inputs (1, C, H, W), without the padding of the preprocessor.

    Example:
        >>> valid_size(torch.zeros(1, 3, 32, 64))
        (32, 64)
    """
    height, width = (getattr(sample, 'img_shape', None) or inputs.shape[2:])[:2]
    return min(height, inputs.shape[2]), min(width, inputs.shape[3])


def input_picture(model: nn.Module, inputs: Tensor, sample: Any = None) -> np.ndarray:
    """Return the image (H, W, 3) of preprocessed inputs (1, C, H, W) as 8-bit RGB.

    The preprocessor's normalisation is undone and its padding removed, so that maps of the network align with the image
    exactly.

    Args:
        model: model whose ``data_preprocessor`` returned the inputs.
        inputs: preprocessed image.
        sample: data sample of the image.

    Example:
        >>> input_picture(nn.Identity(), torch.full((1, 1, 2, 2), 7.0))[0, 0].tolist()
        [7, 7, 7]
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    image = inputs[0].detach().float()
    if getattr(preprocessor, '_enable_normalize', False):
        image = image * preprocessor.std.to(image) + preprocessor.mean.to(image)
    converted = getattr(preprocessor, 'to_rgb', False) or getattr(preprocessor, '_channel_conversion', False)
    if len(image) == 1:
        image = image.expand(3, -1, -1)
    elif bool(converted) == (getattr(sample, 'channel_order', 'bgr') == 'rgb'):
        # Files are read as BGR, see image_steps in mmkerv.deploy.trained_model for the exception.
        image = image.flip(0)
    height, width = valid_size(inputs, sample)
    image = image[:, :height, :width].round().clamp(0, 255)
    return image.permute(1, 2, 0).to(torch.uint8).cpu().numpy()


def panels(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> Figure:
    """Return a figure of images (H, W, 3) with a title each, in rows.

    Example:
        >>> len(panels([[('left', np.zeros((4, 6, 3))), ('right', np.zeros((4, 6, 3)))]]).axes)
        2
    """
    columns = max(map(len, rows))
    ratio = max(image.shape[1] / image.shape[0] for row in rows for _, image in row)
    figure = Figure(figsize=(columns * PANEL * ratio, len(rows) * (PANEL + HEADING)), layout='constrained')
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, line in zip(rows, axes):
        for (title, image), ax in zip(row, line):
            ax.imshow(image, interpolation='antialiased', aspect='equal')
            ax.set_title(title, fontsize=9)
    return figure
