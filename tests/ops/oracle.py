"""The naive float64 answer of any operator, and how far rounding alone may lead from it, element by element."""

import numpy as np
import torch
from torch import Tensor, nn

from mmkerv.ops import (
    CKConv1d,
    CKConv2d,
    DepthwiseSeparableConv2d,
    KANConv2d,
    LowRankConv2d,
    SpatiallySeparableConv2d,
    StackedConv2d,
)
from mmkerv.ops.core.dynamic import DynamicKernel
from mmkerv.ops.kerv import Kervolution
from tests.ops import dynamic_oracle, kan_oracle
from tests.ops.catalogue import CATALOGUE
from tests.ops.ckconv.ck_oracle import causal_sum, conv_loop, kernel_of, sampled
from tests.ops.kerv.kerv_oracle import kerv_loop, response

GEOMETRY = ('stride', 'padding', 'dilation', 'groups', 'padding_mode')
HYPERPARAMETERS = ('degree', 'balance', 'gamma', 'alpha', 'order')
RADIAL = ('gaussian', 'l2', 'euclidean', 'laplacian', 'cauchy', 'rational quadratic')
MANHATTAN = ('l1', 'manhattan')


def geometry_of(op: nn.Module) -> dict:
    return {name: getattr(op, name) for name in GEOMETRY}


def double(value) -> np.ndarray:
    return value.detach().double().numpy() if isinstance(value, Tensor) else np.float64(value)


def dense_kernel(op: nn.Module) -> np.ndarray:
    """K (O, C/groups, *size) of an operator that is a convolution by one kernel, by loops."""
    if isinstance(op, nn.Conv2d):
        return double(op.weight)
    for operator in CATALOGUE.values():
        if operator.kernel is not None and isinstance(op, operator.layer):
            return operator.kernel(op)
    if isinstance(op, (CKConv1d, CKConv2d)):
        return sampled(kernel_of(op), op.kernel_size, op.resolution)
    if isinstance(op, StackedConv2d):
        kernel, *others = (double(parameter) for parameter in op.own_parameters().values())
        for other in others:
            kernel = in_a_row(kernel, other, op.groups)
        return kernel
    width, per_group = op.in_channels // op.groups, op.out_channels // op.groups
    kernel = np.zeros((op.out_channels, width, *op.kernel_size))
    for o in range(op.out_channels):
        group = o // per_group
        for c in range(width):
            if isinstance(op, DepthwiseSeparableConv2d):
                kernel[o, c] = double(op.pointwise)[o, c, 0, 0] * double(op.depthwise)[group * width + c, 0]
            else:
                middle = len(op.vertical) // op.groups
                for m in range(middle):
                    rows, columns = double(op.vertical)[group * middle + m, c, :, 0], double(op.horizontal)[o, m, 0]
                    kernel[o, c] += np.outer(rows, columns)
    return kernel


def in_a_row(first: np.ndarray, second: np.ndarray, groups: int) -> np.ndarray:
    """The kernel of two convolutions, added up tap by tap."""
    outer, middle, rows, columns = second.shape
    height, width = first.shape[2:]
    kernel = np.zeros((outer, first.shape[1], height + rows - 1, width + columns - 1))
    for o, m, y, x in np.ndindex(outer, middle, rows, columns):
        inner = first[o // (outer // groups) * middle + m]
        kernel[o, :, y : y + height, x : x + width] += second[o, m, y, x] * inner
    return kernel


def convolution(op: nn.Module, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The response, and the sum of the magnitudes that were added up for it."""
    if isinstance(op, CKConv1d) and op.causal:
        kernel, settings = kernel_of(op), {'dilation': op.dilation[0], 'stride': op.stride[0], 'groups': op.groups}
        settings |= {'ratio': op.resolution[0], 'size': op.kernel_size[0]}
        magnitude = causal_sum(x.abs(), lambda p: np.abs(kernel(p)), bias=None, **settings)
        return causal_sum(x, kernel, bias=op.bias, **settings), magnitude
    if isinstance(op, DynamicKernel):
        maps, kernels, biases = dynamic_oracle.parts(op, double(x))
        answers, settings = [], geometry_of(op)
        for index, kernel in enumerate(kernels):
            one = torch.from_numpy(maps[index : index + 1])
            answer = conv_loop(one, kernel, op.bias if biases is None else biases[index], **settings)
            answers.append((answer, conv_loop(one.abs(), np.abs(kernel), None, **settings)))
        if not answers:
            shape = conv_loop(x, np.abs(double(op.weight)), None, **settings)
            return shape, shape
        return tuple(np.concatenate(part) for part in zip(*answers))
    if isinstance(op, KANConv2d):
        maps, kernel = kan_oracle.parts(op, double(x))
        answers = conv_loop(maps, kernel, op.bias, **geometry_of(op))
        return answers, conv_loop(np.abs(maps), np.abs(kernel), None, **geometry_of(op))
    kernel, settings = dense_kernel(op), geometry_of(op)
    magnitude = np.abs(kernel)
    if isinstance(op, (LowRankConv2d, SpatiallySeparableConv2d, StackedConv2d)):
        # What cancels between the factors rounds as well.
        options = {'groups': op.groups, 'dtype': torch.float64, **op.options._asdict()}
        copy = type(op)(op.in_channels, op.out_channels, op.kernel_size, **options)
        with torch.no_grad():
            for name, parameter in copy.own_parameters().items():
                parameter.copy_(getattr(op, name).abs())
        magnitude = dense_kernel(copy)
    return conv_loop(x, kernel, op.bias, **settings), conv_loop(x.abs(), magnitude, None, **settings)


def kervolution(op: nn.Module, x: Tensor, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """The response, and what it may be off where its inner product or distance is off by ``rounding``."""
    values = {name: getattr(op, name, None) for name in HYPERPARAMETERS}
    values = {name: double(value) for name, value in values.items() if value is not None}
    settings = geometry_of(op)
    expected = kerv_loop(x, op.weight, op.bias, kernel=op.kernel_name, **settings, **values)
    bare = kerv_loop(x, op.weight, None, kernel=op.kernel_name, **settings, **values)
    if op.kernel_name == 'arc-cosine':
        # |x|^n |w|^n J(theta): at cosine 1 the angle itself is the root of the rounding.
        sizes = kerv_loop(x, op.weight, None, kernel='linear', **settings) * 0
        sizes += np.sqrt(largest_patch(op, x) * float(op.weight.detach().double().square().flatten(1).sum(1).max()))
        order = int(values['order'])
        return expected, (np.sqrt(rounding) if order == 0 else 10 * rounding * sizes**order) + np.abs(bare) * rounding
    if op.kernel_name in RADIAL:
        inner = -kerv_loop(x, op.weight, None, kernel='euclidean', **settings)
        off = rounding * (largest_patch(op, x) + float(op.weight.detach().double().square().flatten(1).sum(1).max()))
        lowest, form = 0.0, lambda t: ([np.sqrt(t)], [0.0])
    elif op.kernel_name in MANHATTAN:
        inner = kerv_loop(x, op.weight, None, kernel='l1', **settings)
        off, lowest, form = rounding * float(inner.max(initial=0.0)), 0.0, lambda t: ([t], [0.0])
    else:
        inner = kerv_loop(x, op.weight, None, kernel='linear', **settings)
        off = rounding * (kerv_loop(x.abs(), op.weight.abs(), None, kernel='linear', **settings) + 1)
        lowest, form = -np.inf, lambda t: ([t], [1.0])
    allowed, off = np.zeros_like(bare), np.broadcast_to(off, bare.shape)
    for index in np.ndindex(bare.shape):
        mine = {
            name: float(np.broadcast_to(np.reshape(v, -1), op.out_channels)[index[1]]) for name, v in values.items()
        }
        ends = (max(inner[index] + side * off[index], lowest) for side in (-1, 1))
        allowed[index] = max(abs(response(op.kernel_name, *form(t), **mine) - bare[index]) for t in ends)
    return expected, allowed + np.abs(bare) * rounding


def largest_patch(op: nn.Module, x: Tensor) -> float:
    """The largest squared norm of a patch."""
    ones = np.ones((op.groups, *op.weight.shape[1:]))
    return float(conv_loop(x.double().square(), ones, None, **geometry_of(op)).max(initial=0.0))


def naive(module: nn.Module, x: Tensor, rounding: float, output_rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Expected output of an operator or a plain convolution, and the allowed deviation, both (N, O, *spatial).

    ``rounding`` is relative to the magnitudes that are added up, ``output_rounding`` to the result.
    """
    batched = x if x.dim() == module_dims(module) + 2 else x[None]
    if isinstance(module, Kervolution):
        expected, allowed = kervolution(module, batched, rounding)
    else:
        expected, magnitude = convolution(module, batched)
        allowed = rounding * (magnitude + magnitude.max(initial=0.0))
    bias = 0.0 if module.bias is None else float(module.bias.detach().double().abs().max())
    allowed = allowed + (rounding + output_rounding) * (np.abs(expected) + bias) + 1e-30
    return (expected, allowed) if batched is x else (expected[0], allowed[0])


def module_dims(module: nn.Module) -> int:
    return len(module.kernel_size)
