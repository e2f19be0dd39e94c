"""Kernels of the operators that fold, by loops in float64, from the papers' equations."""

import math

import numpy as np
from torch import nn


def array(value) -> np.ndarray:
    return value.detach().double().cpu().numpy()


def dcls_kernel(op: nn.Module) -> np.ndarray:
    """K[o, i, a, b] = sum_j w_j m_j(a, b), the interpolation normalised but for v0."""
    height, width = op.kernel_size
    values = array(op.weight if op.weight is not None else op.values)
    values = values.reshape(*values.shape[:2], -1)
    positions = array(op.positions).reshape(2, *values.shape)
    widths = None if op.width is None else array(op.width).reshape(2, *values.shape)
    kernel = np.zeros((*values.shape[:2], height, width))
    for o, i, j in np.ndindex(values.shape):
        m = np.zeros((height, width))
        for a, b in np.ndindex(height, width):
            product = 1.0
            for axis, (index, taps) in enumerate(((a, height), (b, width))):
                p = min(max(positions[axis, o, i, j], -(taps // 2)), taps // 2)
                t = index - taps // 2 - p
                if op.options.version == 'gauss':
                    product *= math.exp(-0.5 * (t / (0.27 + abs(widths[axis, o, i, j]))) ** 2)
                else:
                    reach = 1.0 if widths is None else 1.0 + abs(widths[axis, o, i, j])
                    product *= max(0.0, reach - abs(t))
            m[a, b] = product
        kernel[o, i] += values[o, i, j] * (m if op.options.version == 'v0' else m / (m.sum() + 1e-7))
    return kernel


def low_rank_kernel(op: nn.Module) -> np.ndarray:
    """K[o, i, y, x] of each group: sum_pq A_op C_pq B_iq, or sum_r A_or B_ir H_r V_r, or for 1x1 sum_r A_or B_ir."""
    width, outputs, (inner, outer) = op.in_channels // op.groups, op.out_channels // op.groups, op.ranks
    first, last = array(op.first)[:, :, 0, 0], array(op.last)[:, :, 0, 0]
    kernel = np.zeros((op.out_channels, width, *op.kernel_size))
    for o, i, y, x in np.ndindex(kernel.shape):
        group = o // outputs
        for p in range(outer):
            if op.kernel_size == (1, 1):
                kernel[o, i, y, x] += last[o, p] * first[group * inner + p, i]
            elif op.options.decomposition == 'tucker2':
                for q in range(inner):
                    tap = array(op.core)[group * outer + p, q, y, x]
                    kernel[o, i, y, x] += last[o, p] * tap * first[group * inner + q, i]
            else:
                r = group * inner + p
                if op.options.decomposition == 'cp3':
                    tap = array(op.core)[r, 0, y, x]
                else:
                    tap = array(op.vertical)[r, 0, y, 0] * array(op.horizontal)[r, 0, 0, x]
                kernel[o, i, y, x] += last[o, p] * tap * first[r, i]
    return kernel


def smp_point_kernel(values, positions, radius, size, average: bool) -> np.ndarray:
    """K[r, c] = sum_j w_j relu(1 - |u - p_j|_1 / rho_j), divided by the number of points there if ``average``."""
    height, width = size
    step = max([2 / (k - 1) for k in size if k > 1], default=1.0)
    kernel = np.zeros((*values.shape[:2], height, width))
    for o, i, r, c in np.ndindex(kernel.shape):
        u = (2 * r / (height - 1) - 1 if height > 1 else None, 2 * c / (width - 1) - 1 if width > 1 else None)
        total, reached, s = 0.0, 0, o if len(radius) > 1 else 0
        for j in range(values.shape[2]):
            p = np.clip(positions[:, s, j], -1, 1)
            away = sum(abs(u[axis] - p[axis]) for axis in (0, 1) if u[axis] is not None)
            g = max(0.0, 1 - away / max(radius[s, j], step))
            total += values[o, i, j] * g
            reached += g > 0
        kernel[o, i, r, c] = total / (reached + 1e-6) if average else total
    return kernel


def placed(small: np.ndarray, dilation: int, size) -> np.ndarray:
    """A kernel (O, I, h, w), dilated, in the middle of zeros."""
    result = np.zeros((*small.shape[:2], *size))
    top, left = (big - dilation * (k - 1) - 1 for big, k in zip(size, small.shape[2:]))
    for a, b in np.ndindex(small.shape[2:]):
        result[..., top // 2 + dilation * a, left // 2 + dilation * b] = small[..., a, b]
    return result


def scaled(branch: nn.Module, kernel: np.ndarray) -> np.ndarray:
    """The kernel of a branch times its scale, or the one of its norm in evaluation."""
    if branch.norm is None:
        scale = array(branch.branch_scale)
    else:
        scale = array(branch.norm.weight) / np.sqrt(array(branch.norm.running_var) + branch.norm.eps)
    return scale[:, None, None, None] * kernel


def reparam_kernel(op: nn.Module) -> np.ndarray:
    kernel = placed(scaled(op.basic, array(op.weight)), 1, op.kernel_size)
    if op.large is not None:
        kernel += scaled(op.large, array(op.large.weight))
    for branch in op.parallel.values():
        if branch.weight is None:
            own = np.zeros((op.out_channels, op.in_channels // op.groups, 1, 1))
            for o in range(op.out_channels):
                own[o, o % own.shape[1]] = 1
        else:
            own = array(branch.weight)
        kernel += placed(scaled(branch, own), branch.dilation, op.kernel_size)
    return kernel


def smp_kernel(op: nn.Module) -> np.ndarray:
    points = smp_point_kernel(
        array(op.values), array(op.positions), array(op.radius), op.kernel_size, op.options.average
    )
    return placed(scaled(op.basic, array(op.weight)), 1, op.kernel_size) + scaled(op.large, points)


def weighted_kernel(op: nn.Module) -> np.ndarray:
    height, width = op.kernel_size
    phi = np.ones((height, width))
    for density, taps, axis in ((op.density_rows, height, 0), (op.density_columns, width, 1)):
        for tap in range(taps):
            if tap != taps // 2:
                value = max(array(density)[min(tap, taps - 1 - tap)], 1e-3)
                phi[(tap, slice(None)) if axis == 0 else (slice(None), tap)] *= value
    if op.options.rescale:
        phi /= math.sqrt((phi**2).mean())
    return array(op.weight) * phi


def depthwise_parts_kernel(op: nn.Module) -> np.ndarray:
    """Of InceptionDWConv and MixConv: the channels in order, each part with its kernel or the identity."""
    result, channel = np.zeros((op.in_channels, 1, *op.kernel_size)), 0
    own = {name.partition('.')[0]: array(p) for name, p in op.named_parameters() if name != 'bias'}
    kept = op.in_channels - sum(map(len, own.values()))
    parts = [np.ones((kept, 1, 1, 1)), *own.values()]
    for part in parts:
        result[channel : channel + len(part)] = placed(part, 1, op.kernel_size)
        channel += len(part)
    return result


def partial_kernel(op: nn.Module) -> np.ndarray:
    weight = array(op.partial_conv3.weight)
    result = np.zeros((op.in_channels, op.in_channels, *op.kernel_size))
    result[: len(weight), : len(weight)] = weight
    for channel in range(len(weight), op.in_channels):
        result[(channel, channel, *(k // 2 for k in op.kernel_size))] = 1
    return result


def shiftwise_kernel(op: nn.Module) -> np.ndarray:
    """The sum of shifted small kernels, one by one, each times the scale of its norm."""
    size = op.kernel_size[0]
    result = np.zeros((op.in_channels, 1, size, size))
    small = sum(array(path.weight) for path in op.paths).reshape(len(op.channels), -1, 3, 3)
    first = size // 2 - op._length // 2
    scale = {}
    for name in ('norm_width', 'norm_height', 'norm_centre'):
        norm = getattr(op, name)
        scale[name] = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
    for channel in range(op.in_channels):
        result[channel, 0, size // 2, size // 2] = 1
    for j, channel in enumerate(op.channels.tolist()):
        for r in range(op.options.repeats):
            for a, b in np.ndindex(3, 3):
                for i in range(small.shape[1]):
                    wide = small[j, op.along_width[r, j, i], a, b] * scale['norm_width'][j]
                    result[channel, 0, size // 2 - 1 + a, first + 3 * i + b] += wide
                    tall = small[j, op.along_height[r, j, i], a, b] * scale['norm_height'][j]
                    result[channel, 0, first + 3 * i + a, size // 2 - 1 + b] += tall
                middle = small[j, op.centre[r, j], a, b] * scale['norm_centre'][j]
                result[channel, 0, size // 2 - 1 + a, size // 2 - 1 + b] += middle
    return result
