"""Spatial association of convolution kernels, the core of convolution of convolution.

K = untile(norm(s * tile(W)) + tile(W)), where * is a "same" convolution with super kernels s.
Convolution of Convolution: Let Kernels Spatially Collaborate (CVPR 2022), section 3.1, steps (0) to (3), equation 1.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.coc import compiled
from mmkerv.ops.coc.compiled import Pairs
from mmkerv.ops.coc.tile_product import tile_product
from mmkerv.ops.core.arguments import ceil_div
from mmkerv.ops.core.tracing import needs_plain_operations

SHARE_MODES = ('ci', 'co', 'cico', None)

# Beyond this many taps in a tile the matrix of a super convolution costs more than a batched product saves.
MATRIX_TAPS_LIMIT = 256
# With fewer input channels that matrix is larger than the kernels, many times larger in depthwise layers.
MATRIX_LEAST_INPUTS = 8

LAYER_NORM_EPS = 1e-5


def num_associations(out_channels: int, groups: int, association: int) -> int:
    """Return the number G of association groups that ``out_channels`` filters form.

    A convolution group of at least ``association**2`` filters is padded separately, to a multiple of that number. With
    fewer filters per group (depthwise layers and similar ones) neighbouring filters are associated across groups.

    Example:
        >>> num_associations(18, 1, 2), num_associations(64, 32, 2), num_associations(58, 58, 2)
        (5, 16, 15)
    """
    blocks = _blocks(out_channels, groups, association)
    return blocks * ceil_div(out_channels // blocks, association**2)


def super_weight_shape(
    weight_shape: Sequence[int], super_size: tuple[int, int], share: str | None, groups: int, association: int
) -> tuple[int, int, int, int]:
    """Return the shape of a super layer's weight for a basic ``weight`` of shape (O, I/g, kH, kW).

    It is (G, 1, skH, skW) for share ``'ci'``, (I/g, 1, skH, skW) for ``'co'``, (1, 1, skH, skW) for ``'cico'`` and
    (I/g, I/g, skH, skW) for ``None``.

    Example:
        >>> super_weight_shape((64, 3, 7, 7), (5, 5), 'ci', 1, 2)
        (16, 1, 5, 5)
    """
    inputs = weight_shape[1]
    kernels = {'ci': num_associations(weight_shape[0], groups, association), 'co': inputs, 'cico': 1, None: inputs}
    return (kernels[share], inputs if share is None else 1, *super_size)


def spatial_association(
    weight: Tensor,
    super_weights: Sequence[Tensor],
    super_biases: Sequence[Tensor | None] | None = None,
    *,
    association: int = 2,
    super_dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    share: str | None = 'ci',
    skip: bool = True,
    norms: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    selector: Tensor | None = None,
) -> Tensor:
    r"""Associate the kernels of a layer by convolving tiles of them with super kernels.

    :math:`X_0 = \mathrm{tile}(W)`, :math:`X_{l+1} = \mathrm{norm}_l(s_l * X_l + b_l) + X_l`,
    :math:`K = \mathrm{untile}(X_L)`; without ``skip`` the last term is omitted, without ``norms`` norm is the identity.

    Filter ``r * association + c`` of a group lies at row r, column c of its tile. Missing filters of the last group are
    zero, and are zeroed again before each super layer.

    Args:
        weight: basic kernels of shape (O, I/g, kH, kW).
        super_weights: one weight per super layer, of the shape that :func:`super_weight_shape` returns; odd sizes.
        super_biases: one bias per super layer, (G,), (I/g,), (1,) or (I/g,) depending on ``share``, or ``None``.
        association: filters along each side of a tile, >= 1.
        super_dilation: distance between the super kernels' taps, along height and width.
        groups: groups of the convolution that the kernels belong to.
        share: what a super kernel is shared by: ``'ci'`` the input channels, ``'co'`` the association groups,
            ``'cico'`` both; with ``None`` the super convolution mixes the input channels.
        skip: add each super layer's input to its output.
        norms: scale and shift (G, association * kH, association * kW) of each super layer's layer norm, which
            normalises over these axes for every input channel; only for share ``'ci'``.
        selector: result of :func:`tap_selector` for this geometry; computed if not given.

    Returns:
        The associated kernels, (O, I/g, kH, kW), in the type of ``weight``.

    Raises:
        ValueError: if a super weight does not have the shape that the other arguments require.

    Example:
        >>> weight = torch.randn(8, 3, 3, 3)
        >>> kernel = spatial_association(weight, [torch.zeros(2, 1, 3, 3)], super_dilation=(2, 2))
        >>> bool(torch.equal(kernel, weight))
        True
    """
    biases = super_biases or [None] * len(super_weights)
    affines = norms or [None] * len(super_weights)
    for super_weight in super_weights:
        expected = super_weight_shape(weight.shape, tuple(super_weight.shape[2:]), share, groups, association)
        if super_weight.shape != expected:
            raise ArgumentError(
                f'super weight must have shape {expected} for a weight of shape {tuple(weight.shape)}, '
                f'share={share!r}, groups={groups}, association={association}; got {tuple(super_weight.shape)}'
            )
    by_matrix = uses_matrix(weight.shape, association, share)
    # The product that keeps no tiles is a custom autograd function; compilers and exporters need plain operations.
    if by_matrix and share == 'ci' and not norms and not needs_plain_operations():
        kernel = weight
        for super_weight, bias in zip(super_weights, biases):
            kernel = _associated(kernel, super_weight, bias, selector, groups, association, super_dilation, skip)
        return kernel
    tiles, valid = _tile(weight, groups, association)
    for i, (super_weight, bias, affine) in enumerate(zip(super_weights, biases, affines)):
        if i and valid is not None:
            tiles = tiles * valid
        if by_matrix:
            spread = _selector(selector, weight, super_weight, association, super_dilation)
            out = _super_conv_by_matrix(tiles, super_weight, bias, spread, share, residual=skip and affine is None)
        else:
            out = _super_conv(tiles, super_weight, bias, association, tuple(weight.shape[2:]), super_dilation, share)
        if affine is not None:
            out = _layer_norm(out, affine, association)
        tiles = out + tiles if skip and not (by_matrix and affine is None) else out
    return _untile(tiles, weight, groups, association)


def uses_matrix(weight_shape: Sequence[int], association: int, share: str | None) -> bool:
    """Return ``True`` if the super convolution of kernels (O, I/g, kH, kW) is computed as a matrix product.

    Example:
        >>> [uses_matrix((64, inputs, 3, 3), 2, share) for inputs, share in ((64, 'ci'), (1, 'ci'), (64, None))]
        [True, False, False]
    """
    if share is None or (share == 'ci' and weight_shape[1] < MATRIX_LEAST_INPUTS):
        return False
    return association**2 * weight_shape[2] * weight_shape[3] <= MATRIX_TAPS_LIMIT


def tap_selector(
    association: int,
    kernel_size: tuple[int, int],
    super_size: tuple[int, int],
    super_dilation: tuple[int, int],
    device: torch.device | None = None,
) -> Tensor:
    """Return the 0/1 matrix that expands a super kernel into the matrix of its convolution over a tile.

    A product is used instead of indexing, whose gradient adds tap by tap: that takes 30 ms for 128 super kernels on a
    CPU, and has no fixed order on a GPU.

    Returns:
        (skH * skW, T * T) with T = association**2 * kH * kW.

    Example:
        >>> matrix = torch.tensor([[1.0, 2.0, 4.0]]) @ tap_selector(1, (1, 3), (1, 3), (1, 1))
        >>> matrix.view(3, 3).tolist()
        [[2.0, 4.0, 0.0], [1.0, 2.0, 4.0], [0.0, 1.0, 2.0]]
    """
    table = tap_table(association, kernel_size, super_size, super_dilation, device).flatten()
    return torch.stack([table == tap for tap in range(super_size[0] * super_size[1])]).float()


def tap_table(
    association: int,
    kernel_size: tuple[int, int],
    super_size: tuple[int, int],
    super_dilation: tuple[int, int],
    device: torch.device | None = None,
) -> Tensor:
    """Return a table with the tap of the super kernel that connects each pair of taps of a tile.

    The T = association**2 * kH * kW taps of a tile are numbered in the order (filter, row, column).

    Returns:
        (T, T) integers: entry (i, j) is the index of the super kernel's tap that multiplies input tap j in output tap
        i, or skH * skW, one past the last index, if there is none.

    Example:
        >>> tap_table(1, (1, 3), (1, 3), (1, 1)).tolist()
        [[1, 2, 3], [0, 1, 2], [3, 0, 1]]
    """
    axes = []
    for k, s, d in zip(kernel_size, super_size, super_dilation):
        position = torch.arange(association * k, device=device)
        offset = position[None, :] - position[:, None]
        tap = torch.div(offset, d, rounding_mode='floor') + s // 2
        axes.append(torch.where((offset % d == 0) & (tap >= 0) & (tap < s), tap, -1))
    rows, columns = axes
    # (row of tile, row of tap) x (column of tile, column of tap) -> (filter row, filter column, tap row, tap column)
    a, (kh, kw) = association, kernel_size
    rows = rows.view(a, 1, kh, 1, a, 1, kh, 1)
    columns = columns.view(1, a, 1, kw, 1, a, 1, kw)
    table = torch.where((rows >= 0) & (columns >= 0), rows * super_size[1] + columns, super_size[0] * super_size[1])
    return table.reshape(a * a * kh * kw, -1)


@functools.lru_cache(maxsize=64)
def tap_pairs(
    association: int, kernel_size: tuple[int, int], super_size: tuple[int, int], super_dilation: tuple[int, int]
) -> Pairs:
    """Return the taps of a tile that a super kernel connects, for the compiled extension.

    Example:
        >>> tap_pairs(1, (1, 3), (1, 3), (2, 2)).forward
        array('i', [0, 0, -2, 0, 0, 0, 0, 0, 2])
    """
    taps, none = math.prod(kernel_size), math.prod(super_size)
    table = tap_table(association, kernel_size, super_size, super_dilation).tolist()
    return Pairs.of(
        {
            (i // taps, j // taps, j % taps - i % taps)
            for i, row in enumerate(table)
            for j, tap in enumerate(row)
            if tap != none
        }
    )


def _blocks(out_channels: int, groups: int, association: int) -> int:
    """Return the number of blocks of filters that are padded and associated separately."""
    return groups if out_channels // groups >= association**2 else 1


def _missing_filters(filters: int, tile: int) -> int:
    """Return the number of filters to add to fill all tiles of ``tile`` filters."""
    return ceil_div(filters, tile) * tile - filters


def _tile(weight: Tensor, groups: int, association: int) -> tuple[Tensor, Tensor | None]:
    """Return the kernels (G, association**2 * kH * kW, I/g), and the mask (G, ..., 1) of real filters or ``None``."""
    outputs, inputs = weight.shape[:2]
    blocks = _blocks(outputs, groups, association)
    filters = association**2
    missing = _missing_filters(outputs // blocks, filters)
    tiles = weight.reshape(blocks, outputs // blocks, inputs, -1)
    valid = None
    if missing:
        tiles = F.pad(tiles, (0, 0, 0, 0, 0, missing))
        valid = F.pad(weight.new_ones(blocks, outputs // blocks), (0, missing)).view(-1, filters, 1)
        valid = valid.expand(-1, -1, tiles.shape[-1]).reshape(-1, filters * tiles.shape[-1], 1)
    tiles = tiles.reshape(-1, filters, inputs, tiles.shape[-1]).transpose(2, 3)
    return tiles.reshape(tiles.shape[0], -1, inputs), valid


def _untile(tiles: Tensor, weight: Tensor, groups: int, association: int) -> Tensor:
    outputs, inputs = weight.shape[:2]
    blocks = _blocks(outputs, groups, association)
    kernels = tiles.reshape(blocks, -1, weight.shape[2] * weight.shape[3], inputs)[:, : outputs // blocks]
    return kernels.transpose(2, 3).reshape(weight.shape)


def _selector(
    selector: Tensor | None, weight: Tensor, super_weight: Tensor, association: int, super_dilation: tuple[int, int]
) -> Tensor:
    sizes = tuple(weight.shape[2:]), tuple(super_weight.shape[2:])
    if selector is None:
        selector = tap_selector(association, *sizes, super_dilation, weight.device)
    return selector.to(super_weight)


def _associated(
    weight: Tensor,
    super_weight: Tensor,
    bias: Tensor | None,
    selector: Tensor | None,
    groups: int,
    association: int,
    super_dilation: tuple[int, int],
    skip: bool,
) -> Tensor:
    """Apply a super layer with one super kernel per association group to kernels (O, I/g, kH, kW)."""
    outputs, inputs, *kernel_size = weight.shape
    blocks, filters = _blocks(outputs, groups, association), association**2
    missing = _missing_filters(outputs // blocks, filters)
    kernels = weight
    if missing:
        kernels = F.pad(weight.reshape(blocks, outputs // blocks, -1), (0, 0, 0, missing))
    kernels = kernels.reshape(-1, filters, inputs, math.prod(kernel_size))
    length = filters * kernels.shape[3]
    selector = _selector(selector, weight, super_weight, association, super_dilation)
    matrix = (super_weight.flatten(1) @ selector).view(-1, length, length)
    pairs = None
    if compiled.applies(kernels):
        pairs = tap_pairs(association, tuple(kernel_size), tuple(super_weight.shape[2:]), tuple(super_dilation))
    kernels = tile_product(kernels, matrix, bias, residual=skip, pairs=pairs)
    return kernels.view(blocks, -1, *weight.shape[1:])[:, : outputs // blocks].reshape(weight.shape)


def _super_conv_by_matrix(
    tiles: Tensor, super_weight: Tensor, bias: Tensor | None, selector: Tensor, share: str | None, residual: bool
) -> Tensor:
    """Compute a super convolution, plus its input if ``residual``, as a product of (T, T) matrices and the tiles."""
    groups, length, inputs = tiles.shape
    matrix = (super_weight.flatten(1) @ selector).view(-1, length, length)
    if share == 'co':
        x = tiles.permute(2, 1, 0)
    elif share == 'cico':
        x = tiles.transpose(0, 1).reshape(1, length, -1)
    else:
        x = tiles
    y = torch.baddbmm(x, matrix, x) if residual else torch.bmm(matrix, x)
    if bias is not None:
        y = y + bias.view(-1, 1, 1)
    if share == 'co':
        return y.permute(2, 1, 0)
    return y.view(length, groups, inputs).transpose(0, 1) if share == 'cico' else y


def _super_conv(
    tiles: Tensor,
    super_weight: Tensor,
    bias: Tensor | None,
    association: int,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    share: str | None,
) -> Tensor:
    """Compute a super convolution as a convolution of the tiles, laid out in the plane."""
    plane = _to_plane(tiles, association, kernel_size)
    groups, inputs, height, width = plane.shape
    x = plane.transpose(0, 1) if share == 'ci' else plane
    if share == 'cico':
        x = x.reshape(-1, 1, height, width)
        bias = None if bias is None else bias.view(1)
    padding = tuple(d * (s // 2) for d, s in zip(dilation, super_weight.shape[2:]))
    y = F.conv2d(x, super_weight, bias, padding=padding, dilation=dilation, groups=1 if share is None else x.shape[1])
    y = y.transpose(0, 1) if share == 'ci' else y.reshape(groups, inputs, height, width)
    return _from_plane(y, association, kernel_size)


def _layer_norm(tiles: Tensor, affine: tuple[Tensor, Tensor], association: int) -> Tensor:
    scale, shift = affine
    kernel_size = (scale.shape[1] // association, scale.shape[2] // association)
    scale, shift = (_from_plane(a.unsqueeze(1), association, kernel_size) for a in (scale, shift))
    variance, mean = torch.var_mean(tiles, dim=(0, 1), correction=0, keepdim=True)
    return (tiles - mean) * torch.rsqrt(variance + LAYER_NORM_EPS) * scale + shift


def _to_plane(tiles: Tensor, association: int, kernel_size: tuple[int, int]) -> Tensor:
    """Reorder (G, association**2 * kH * kW, I/g) to (G, I/g, association * kH, association * kW)."""
    a, (kh, kw) = association, kernel_size
    x = tiles.reshape(tiles.shape[0], a, a, kh, kw, tiles.shape[2]).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(tiles.shape[0], tiles.shape[2], a * kh, a * kw)


def _from_plane(plane: Tensor, association: int, kernel_size: tuple[int, int]) -> Tensor:
    a, (kh, kw) = association, kernel_size
    x = plane.reshape(*plane.shape[:2], a, kh, a, kw).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(plane.shape[0], -1, plane.shape[1])
