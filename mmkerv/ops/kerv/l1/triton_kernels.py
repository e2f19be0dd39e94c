r"""Triton kernels of the L1 distance, :math:`y_{nop} = \sum_k |x_{np,k} - w_{ok}|`, and of its gradients.

No patch is gathered: element k of a patch lies at a fixed offset from the patch's corner, whatever the number of axes,
so one table of offsets and the strides of the input replace them. Every program owns a tile of the result and sums it
in registers, in the type of the input (float32 or float64), so both gradients are the same at every run.
Source: Kervolutional Neural Networks, CVPR 2019, equation 9a. Needs Triton, which only this module imports.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmkerv.ops.core.geometry import output_shape

# A tile's sums live in registers. Tiles are small and have one warp each: its threads share what they load by shuffles,
# where those of several warps would load most of it again.
TILE = 32 * 64
WARPS = 1

# Number of programs that keeps a large GPU busy; more would only add partial sums of the weight's gradient.
PROGRAMS = 4096


@triton.jit
def distance_kernel(
    x, w, y, tap_table,
    positions, length, height, width, filters, size,
    x_batch, x_group, x_depth, x_row, x_column,
    BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Sum a tile of positions × filters over the taps; ``w`` is (groups, size, filters), ``y`` (N, O, *out)."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    group, groups = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    n, place = p // length, p % length
    corner = n * x_batch + group * x_group
    corner += place // width // height * x_depth + place // width % height * x_row + place % width * x_column
    w += group * size * filters + o
    total = tl.zeros((BLOCK_P, BLOCK_O), x.dtype.element_ty)
    for k in range(size):
        value = tl.load(x + corner + tl.load(tap_table + k), mask=p < positions, other=0.0)
        weight = tl.load(w + k * filters, mask=o < filters, other=0.0)
        total += tl.abs(value[:, None] - weight[None, :])
    y += (n * groups * filters * length + place)[:, None] + ((group * filters + o) * length)[None, :]
    tl.store(y, total, mask=(p < positions)[:, None] & (o < filters)[None, :])


@triton.jit
def input_gradient_kernel(
    grad, x, w, grad_x, depth_table, row_table, column_table,
    pixels, depth, height, width, channels, filters, taps, kernel_height, kernel_width,
    x_batch, x_channel, x_depth, x_row, x_column, grad_batch, grad_filter,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum a tile of pixels × channels over taps and filters; ``w`` is (groups, taps, filters, channels).

    Each table (taps, coordinates) holds the offset in ``grad`` of the position that reads a coordinate at a tap, or -1.
    """
    s = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    group = tl.program_id(2).to(tl.int64)
    n = s // width // height // depth
    d, h, v = s // width // height % depth, s // width % height, s % width
    place = (n * x_batch + d * x_depth + h * x_row + v * x_column)[:, None]
    place += ((group * channels + c) * x_channel)[None, :]
    inside = (s < pixels)[:, None] & (c < channels)[None, :]
    value = tl.load(x + place, mask=inside, other=0.0)
    grad += n * grad_batch + group * filters * grad_filter
    w += group * taps * filters * channels + c
    total = tl.zeros((BLOCK_S, BLOCK_C), x.dtype.element_ty)
    for tap in range(taps):
        in_depth = tl.load(depth_table + tap // (kernel_height * kernel_width) * depth + d, mask=s < pixels, other=-1)
        in_row = tl.load(row_table + tap // kernel_width % kernel_height * height + h, mask=s < pixels, other=-1)
        in_column = tl.load(column_table + tap % kernel_width * width + v, mask=s < pixels, other=-1)
        sees = (in_depth >= 0) & (in_row >= 0) & (in_column >= 0)
        source = grad + in_depth + in_row + in_column
        for o in range(filters):
            g = tl.load(source, mask=sees, other=0.0)[:, None]
            weight = tl.load(w + (tap * filters + o) * channels, mask=c < channels, other=0.0)[None, :]
            total += tl.where(value > weight, g, tl.where(value < weight, -g, 0.0))
            source += grad_filter
    tl.store(grad_x + place, total, mask=inside)


@triton.jit
def weight_gradient_kernel(
    grad, x, w, partial, tap_table,
    rows, rows_each, depth, height, width, filters, size,
    x_batch, x_group, x_depth, x_row, x_column,
    grad_batch, grad_filter, grad_depth, grad_row, grad_column,
    BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sum a tile of filters × taps over some rows of positions; ``w`` is (O, size), ``partial`` (parts, O, size)."""
    tiles = tl.cdiv(size, BLOCK_K)
    o = tl.program_id(0) // tiles * BLOCK_O + tl.arange(0, BLOCK_O)
    k = tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    part, group, groups = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64), tl.num_programs(2)
    inside = (o < filters)[:, None] & (k < size)[None, :]
    place = (group * filters + o)[:, None] * size + k[None, :]
    weight = tl.load(w + place, mask=inside, other=0.0)
    grad += (group * filters + o) * grad_filter
    x += group * x_group + tl.load(tap_table + k, mask=k < size, other=0)
    total = tl.zeros((BLOCK_O, BLOCK_K), x.dtype.element_ty)
    for row in range(part * rows_each, tl.minimum((part + 1) * rows_each, rows)):
        n, d, h = row // height // depth, row // height % depth, row % height
        grad_start = n * grad_batch + d * grad_depth + h * grad_row
        x_start = n * x_batch + d * x_depth + h * x_row
        for column in range(width):
            g = tl.load(grad + grad_start + column * grad_column, mask=o < filters, other=0.0)[:, None]
            value = tl.load(x + x_start + column * x_column, mask=k < size, other=0.0)[None, :]
            total += tl.where(value > weight, -g, tl.where(value < weight, g, 0.0))
    tl.store(partial + part * groups * filters * size + place, total, mask=inside)


def triton_distance(
    x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int, chunk_mib: float
) -> Tensor:
    """Compute :func:`mmkerv.ops.kerv.l1.l1_distance`; besides ``y`` it allocates one copy of the weight."""
    y = x.new_empty(output_shape(x, weight, stride, dilation))
    if y.numel() == 0:
        return y
    length, filters, size = math.prod(y.shape[2:]), weight.shape[0] // groups, math.prod(weight.shape[1:])
    block_o = min(64, triton.next_power_of_2(filters))
    block_p = min(256, TILE // block_o)
    positions = y.shape[0] * length
    with torch.cuda.device_of(x):
        distance_kernel[(triton.cdiv(positions, block_p), triton.cdiv(filters, block_o), groups)](
            x, weight.reshape(groups, filters, size).transpose(1, 2).contiguous(), y, _taps(x, weight, dilation),
            positions, length, *_three(y.shape[2:])[1:], filters, size,
            *_corner_strides(x, weight, stride),
            BLOCK_P=block_p, BLOCK_O=block_o, num_warps=WARPS,
        )  # fmt: skip
    return y


def triton_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    chunk_mib: float,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of :func:`triton_distance`; one that is not needed is an empty tensor."""
    geometry = (grad, x, weight, stride, dilation, groups)
    grad_x, grad_weight = x.new_empty(0), weight.new_empty(0)
    with torch.cuda.device_of(x):
        if need_x:
            grad_x = torch.zeros_like(x) if grad.numel() == 0 else _input_gradient(*geometry)
        if need_weight:
            grad_weight = torch.zeros_like(weight) if grad.numel() == 0 else _weight_gradient(*geometry, chunk_mib)
    return grad_x, grad_weight


def _input_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    grad_x = torch.empty_like(x)
    if x.stride() != grad_x.stride():
        # The kernel writes at the offsets it reads from, which an expanded input does not allow.
        x = x.clone()
    channels, filters, taps = weight.shape[1], weight.shape[0] // groups, math.prod(weight.shape[2:])
    block_c = min(32, triton.next_power_of_2(channels))
    block_s = min(256, TILE // block_c)
    pixels = x.numel() // x.shape[1]
    grid = (triton.cdiv(pixels, block_s), triton.cdiv(channels, block_c), groups)
    input_gradient_kernel[grid](
        grad, x, weight.reshape(groups, filters, channels, taps).permute(0, 3, 1, 2).contiguous(), grad_x,
        *_seen_by(grad, x, weight, stride, dilation),
        pixels, *_three(x.shape[2:]), channels, filters, taps, *_three(weight.shape[2:])[1:],
        *x.stride()[:2], *_three(x.stride()[2:], 0), *grad.stride()[:2],
        BLOCK_S=block_s, BLOCK_C=block_c, num_warps=WARPS,
    )  # fmt: skip
    return grad_x


def _weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    chunk_mib: float,
) -> Tensor:
    out = _three(grad.shape[2:])
    filters, size, rows = weight.shape[0] // groups, math.prod(weight.shape[1:]), grad.shape[0] * out[0] * out[1]
    block_k = min(64, triton.next_power_of_2(size))
    block_o = min(TILE // 64, triton.next_power_of_2(filters))
    tiles = triton.cdiv(filters, block_o) * triton.cdiv(size, block_k)
    affordable = int(chunk_mib * 2**20) // (weight.numel() * weight.element_size()) - 2
    parts = max(1, min(rows, affordable, triton.cdiv(PROGRAMS, tiles * groups)))
    rows_each = triton.cdiv(rows, parts)
    parts = triton.cdiv(rows, rows_each)
    partial = weight.new_empty(parts, *weight.shape)
    weight_gradient_kernel[(tiles, parts, groups)](
        grad, x, weight.contiguous(), partial, _taps(x, weight, dilation),
        rows, rows_each, *out, filters, size,
        *_corner_strides(x, weight, stride), *grad.stride()[:2], *_three(grad.stride()[2:], 0),
        BLOCK_O=block_o, BLOCK_K=block_k, num_warps=WARPS,
    )  # fmt: skip
    return torch.empty_like(weight).copy_(partial.sum(0))


def _three(sizes: Sequence[int], fill: int = 1) -> tuple[int, ...]:
    return (fill,) * (3 - len(sizes)) + tuple(sizes)


def _corner_strides(x: Tensor, weight: Tensor, stride: Sequence[int]) -> tuple[int, ...]:
    """Return the strides between the corners of patches: over the batch, the groups, and three axes of positions."""
    steps = [size * step for size, step in zip(x.stride()[2:], stride)]
    return (x.stride(0), weight.shape[1] * x.stride(1), *_three(steps, 0))


def _taps(x: Tensor, weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return the offset of every element of a patch from the patch's corner, in the order of a filter's elements."""
    offsets = torch.zeros((), dtype=torch.int64, device=x.device)
    for count, step in zip(weight.shape[1:], (x.stride(1), *(s * d for s, d in zip(x.stride()[2:], dilation)))):
        offsets = offsets[..., None] + torch.arange(count, device=x.device) * step
    return offsets.flatten()


def _seen_by(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, ...]:
    """Return, for each of three axes, a table (taps, coordinates) of the position in ``grad`` that reads it, or -1."""
    tables = []
    for axis, (taps, s, d) in enumerate(zip(weight.shape[2:], stride, dilation), 2):
        coordinates = torch.arange(x.shape[axis], device=x.device)
        start = coordinates - d * torch.arange(taps, device=x.device)[:, None]
        position = start.div(s, rounding_mode='floor')
        exists = (start >= 0) & (start % s == 0) & (position < grad.shape[axis])
        tables.append(torch.where(exists, position * grad.stride(axis), -1))
    return (*(coordinates.new_zeros(1, 1) for _ in range(3 - len(tables))), *tables)
