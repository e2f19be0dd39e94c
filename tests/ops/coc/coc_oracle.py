"""Slow, obvious reference for convolution of convolution (CoC): plain loops over numpy float64 arrays.

Nothing here uses the package under test. "Paper" is Zhao, Li and Wu, "Convolution of Convolution: Let Kernels
Spatially Collaborate", CVPR 2022; "official" is the behaviour of the code its authors published; "design" is this
project's design, section 2.3. Every rule names which of the three it comes from.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Affine = tuple[Array, Array]

EPS = 1e-5  # official: every layer norm and every standardisation uses 1e-5

# design: the table of (taps, dilation) for `dilate=True`, official practice; skp = 0, 2, 4, 6 from left to right.
GEOMETRY = {
    3: {0: (3, 1), 2: (3, 2), 4: (3, 3), 6: (5, 2)},
    5: {0: (3, 3), 2: (5, 2), 4: (5, 3), 6: (5, 4)},
    7: {0: (5, 2), 2: (5, 3), 4: (5, 4), 6: (7, 3)},
}


def to_float64(tensor: Any) -> Array:
    """Copy a torch tensor (or anything array-like) into a numpy float64 array."""
    if hasattr(tensor, 'detach'):
        tensor = tensor.detach().cpu().double().numpy()
    return np.array(tensor, dtype=np.float64)


def super_kernel_geometry(k: int, skp: int, dilate: bool | str) -> tuple[int, int]:
    """Taps and dilation of a super kernel along one axis whose basic kernel has ``k`` taps.

    Raises:
        ValueError: Even ``k``, odd or negative ``skp``, or (``dilate=True``) a pair that the design's table lacks.
    """
    if k < 1 or k % 2 == 0:  # design: even k is refused
        raise ValueError(f'k={k} must be a positive odd number')
    if skp < 0 or skp % 2:  # odd skp would give an even super kernel, for which "same" padding is lopsided
        raise ValueError(f'skp={skp} must be a non-negative even number')
    if k == 1 or dilate is False:  # design: axes of size 1 are not dilated; dilate=False is (k + skp, 1)
        return k + skp, 1
    if dilate is True:
        if k not in GEOMETRY or skp not in GEOMETRY[k]:
            raise ValueError(f'the table has no entry for k={k}, skp={skp}')
        return GEOMETRY[k][skp]
    if dilate != 'paper':
        raise ValueError(f"dilate={dilate!r} must be True, False or 'paper'")

    # design: "the nearest odd dilated kernel of extent <= k + skp". The words are read as follows:
    # - "odd": the number of taps is odd, and at least 3 (one tap associates nothing);
    # - "dilated": dilation >= 2, except that the target 3 has only the plain 3-tap kernel;
    # - "kernel": dilation <= taps, which every entry of the table obeys. Were any dilation allowed, 3 taps at dilation
    #   (k + skp - 1) / 2 would always reach the target exactly and "nearest ... <=" would be meaningless;
    # - "nearest": the largest extent;
    # - ties: the fewest taps, because the table reaches 13 by (5, 3) and not by (7, 2), and 17 by (5, 4), not (9, 2).
    target = k + skp
    found = []
    for taps, dilation in itertools.product(range(3, target + 1, 2), range(1, target + 1)):
        extent = dilation * (taps - 1) + 1
        is_dilated = dilation >= 2 or target == 3
        if extent <= target and is_dilated and dilation <= taps:
            found.append((extent, -taps, dilation))
    _, minus_taps, dilation = max(found)
    return -minus_taps, dilation


def association_groups(out_channels: int, groups: int, association: int) -> list[list[int | None]]:
    """Filter indices of every association group in tile order; None is a missing filter (a constant zero row)."""
    members = association**2
    per_group = out_channels // groups
    if per_group >= members:
        # design: each convolution group is padded to a multiple of sa^2 by itself
        runs = [list(range(g * per_group, (g + 1) * per_group)) for g in range(groups)]
    else:
        # design: depthwise and nearly so, neighbouring filters associate across convolution groups
        runs = [list(range(out_channels))]
    result: list[list[int | None]] = []
    for run in runs:
        padded: list[int | None] = list(run)
        while len(padded) % members:  # paper 3.1 step (0): "if c_o cannot be exactly divided then pad zeros"
            padded.append(None)
        result += [padded[start : start + members] for start in range(0, len(padded), members)]
    return result


def mean_and_variance(values: Array, ddof: int) -> tuple[float, float]:
    """Mean and variance of all entries; ``ddof=1`` is the unbiased variance, ``ddof=0`` that of a layer norm."""
    numbers = [float(v) for v in values.reshape(-1)]
    if len(numbers) <= ddof:
        raise ValueError(f'the unbiased variance of {len(numbers)} value is undefined')
    mean = math.fsum(numbers) / len(numbers)
    return mean, math.fsum((v - mean) ** 2 for v in numbers) / (len(numbers) - ddof)


def standardized(values: Array) -> Array:
    """``(v - mean) / (unbiased std + eps)`` over all entries (official; the formula of weight standardisation)."""
    mean, variance = mean_and_variance(values, ddof=1)
    return (values - mean) / (math.sqrt(variance) + EPS)


def layer_normed(values: Array, affine: Affine | None) -> Array:
    """``(v - mean) / sqrt(biased variance + eps)`` over all entries, then the elementwise affine of the same shape."""
    mean, variance = mean_and_variance(values, ddof=0)
    normed = (values - mean) / math.sqrt(variance + EPS)
    if affine is None:
        return normed
    scale, shift = to_float64(affine[0]), to_float64(affine[1])
    if scale.shape != values.shape or shift.shape != values.shape:
        raise ValueError(f'affine shapes {scale.shape}, {shift.shape} must equal {values.shape}')
    return normed * scale + shift


def cross_correlate_same(image: Array, kernel: Array, dilation: tuple[int, int]) -> Array:
    """Cross-correlation of one 2-D image with one odd 2-D kernel, zero outside the image, same size out."""
    height, width = image.shape
    taps_h, taps_w = kernel.shape
    if taps_h % 2 == 0 or taps_w % 2 == 0:
        raise ValueError(f'super kernel {kernel.shape} must be odd')
    out = np.zeros_like(image)
    for y, x, u, v in itertools.product(range(height), range(width), range(taps_h), range(taps_w)):
        # as nn.Conv2d: the kernel is not flipped, its centre sits on the output position
        source_y = y + (u - taps_h // 2) * dilation[0]
        source_x = x + (v - taps_w // 2) * dilation[1]
        if 0 <= source_y < height and 0 <= source_x < width:
            out[y, x] += kernel[u, v] * image[source_y, source_x]
    return out


def super_convolution(tiles: Array, weight: Array, bias: Array | None, share: str | None, dilation) -> Array:
    """Super-convolve ``tiles`` (G, I/g, tile_h, tile_w); ``share`` selects the super kernel of each tile (design)."""
    n_groups, n_inputs = tiles.shape[:2]
    lead = {'ci': (n_groups, 1), 'co': (n_inputs, 1), 'cico': (1, 1), None: (n_inputs, n_inputs)}[share]
    if weight.shape[:2] != lead or (bias is not None and bias.shape != lead[:1]):
        raise ValueError(f'share={share!r} needs a super weight {lead} + (skH, skW) and a bias {lead[:1]}')
    out = np.zeros_like(tiles)
    for g, i in itertools.product(range(n_groups), range(n_inputs)):
        if share is None:
            # official: an ordinary dense convolution over the input channels, association groups as the batch
            for j in range(n_inputs):
                out[g, i] += cross_correlate_same(tiles[g, j], weight[i, j], dilation)
            row = i
        else:
            # paper 3.1 step (2) is 'ci': one super kernel per association group, shared over the input channels
            row = {'ci': g, 'co': i, 'cico': 0}[share]
            out[g, i] = cross_correlate_same(tiles[g, i], weight[row, 0], dilation)
        if bias is not None:
            out[g, i] += bias[row]
    return out


def coc_kernel(
    weight: Array,
    super_weights: Sequence[Array],
    super_biases: Sequence[Array | None],
    *,
    association: int,
    super_kernel: tuple[int, int],
    super_dilation: tuple[int, int],
    skip: bool,
    share: str | None,
    groups: int,
    super_norm: str | None = None,
    norm_affine: Sequence[Affine | None] | None = None,
    super_standardize: bool = False,
    standardize: bool | str = False,
    standardize_affine: Affine | None = None,
) -> Array:
    """Compute the kernel with which a CoC layer convolves its input.

    Args:
        weight: Basic kernels (O, I/g, kH, kW).
        super_weights: One array per super layer; (G, 1, skH, skW) for ``share='ci'``, (I/g, 1, skH, skW) for 'co',
            (1, 1, skH, skW) for 'cico', (I/g, I/g, skH, skW) for None.
        super_biases: One array (as long as the super weight's first axis) or None per super layer.
        association: Side of the tile in filters (sa), at least 1.
        super_kernel: (skH, skW), checked against ``super_weights``.
        super_dilation: Dilation of the super kernels, (height, width).
        skip: Add each super layer's input to its output.
        share: What a super kernel is shared over: 'ci', 'co', 'cico' or None.
        groups: Groups of the basic convolution.
        super_norm: None or 'ln' (only with ``share='ci'``).
        norm_affine: For 'ln', one (scale, shift) of shape (G, sa * kH, sa * kW) or None per super layer.
        super_standardize: Standardise every super kernel first.
        standardize: False, True or 'ln': final normalisation of the associated kernels.
        standardize_affine: For ``standardize='ln'``, (scale, shift) of shape (I/g, kH, kW) or None.

    Returns:
        Array of shape (O, I/g, kH, kW).
    """
    weight = to_float64(weight)
    n_filters, n_inputs, k_h, k_w = weight.shape
    sa = association
    if super_norm not in (None, 'ln') or (super_norm == 'ln' and share != 'ci'):
        raise ValueError(f"super_norm={super_norm!r} must be None, or 'ln' with share='ci'; share={share!r}")
    if not len(super_weights) == len(super_biases) == len(norm_affine or super_weights):
        raise ValueError('super_weights, super_biases and norm_affine need one entry per super layer')

    group_list = association_groups(n_filters, groups, sa)
    # paper 3.1 step (1) and the matrix [[k1, k2], [k3, k4]] of eq. 6: filter r * sa + c is at tile row r, column c
    slots = [
        (g, filter_index, slice(r * k_h, (r + 1) * k_h), slice(c * k_w, (c + 1) * k_w))
        for g, members in enumerate(group_list)
        for r, c in itertools.product(range(sa), range(sa))
        for filter_index in [members[r * sa + c]]
    ]

    tiles = np.zeros((len(group_list), n_inputs, sa * k_h, sa * k_w))
    for g, filter_index, rows, columns in slots:
        if filter_index is not None:
            tiles[g, :, rows, columns] = weight[filter_index]

    for layer, (super_weight, super_bias) in enumerate(zip(super_weights, super_biases, strict=True)):
        super_weight = to_float64(super_weight)
        super_bias = None if super_bias is None else to_float64(super_bias)
        if super_weight.shape[2:] != tuple(super_kernel):
            raise ValueError(f'super weight {super_weight.shape} is not of super kernel {super_kernel}')
        for g, filter_index, rows, columns in slots:
            if filter_index is None:  # design: missing filters are re-zeroed before each super layer
                tiles[g, :, rows, columns] = 0.0
        if super_standardize:
            # official: per output channel of the super convolution, which for share=None spans its input channels
            super_weight = np.stack([standardized(one) for one in super_weight])
        out = super_convolution(tiles, super_weight, super_bias, share, super_dilation)
        if super_norm == 'ln':
            # official: one mean and variance per input channel over all association groups together; positions of
            # missing filters are included, since they are part of the output of the super convolution
            affine = norm_affine[layer] if norm_affine else None
            out = np.stack([layer_normed(out[:, i], affine) for i in range(n_inputs)], axis=1)
        tiles = out + tiles if skip else out  # official and design: skip comes after the norm

    kernel = np.zeros_like(weight)
    for g, filter_index, rows, columns in slots:  # paper 3.1 step (3); values at missing filters are dropped
        if filter_index is not None:
            kernel[filter_index] = tiles[g, :, rows, columns]

    # design: standardise last, after missing filters are dropped; each filter on its own
    if standardize is True:
        kernel = np.stack([standardized(one) for one in kernel])
    elif standardize == 'ln':
        kernel = np.stack([layer_normed(one, standardize_affine) for one in kernel])
    elif standardize is not False:
        raise ValueError(f"standardize={standardize!r} must be False, True or 'ln'")
    return kernel


def conv2d_loop(x: Array, w: Array, b: Array | None = None, stride=1, padding=0, dilation=1, groups: int = 1) -> Array:
    """Zero-padded 2-D convolution as nn.Conv2d defines it: ``x`` (N, C, H, W), ``w`` (O, C/g, kH, kW), ``b`` (O,)."""
    (s_h, s_w), (p_h, p_w), (d_h, d_w) = [(v, v) if isinstance(v, int) else v for v in (stride, padding, dilation)]
    batch, _, height, width = x.shape
    n_filters, n_inputs, k_h, k_w = w.shape
    out_h = (height + 2 * p_h - d_h * (k_h - 1) - 1) // s_h + 1
    out_w = (width + 2 * p_w - d_w * (k_w - 1) - 1) // s_w + 1
    out = np.zeros((batch, n_filters, out_h, out_w))
    for n, o, y, z in itertools.product(range(batch), range(n_filters), range(out_h), range(out_w)):
        first_input = o // (n_filters // groups) * n_inputs
        total = 0.0 if b is None else float(b[o])
        for i, u, v in itertools.product(range(n_inputs), range(k_h), range(k_w)):
            row = y * s_h - p_h + u * d_h
            column = z * s_w - p_w + v * d_w
            if 0 <= row < height and 0 <= column < width:
                total += w[o, i, u, v] * x[n, first_input + i, row, column]
        out[n, o, y, z] = total
    return out
