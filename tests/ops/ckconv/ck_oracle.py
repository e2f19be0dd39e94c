"""Slow, obvious reference for continuous-kernel convolution (CKConv): one position, one tap at a time, numpy float64.

Nothing here uses the package under test. "Paper" is Romero et al., "CKConv: Continuous Kernel Convolution For
Sequential Data", ICLR 2022; "design" is this project's design, section 2.4. Every rule names which of the two it comes
from. Ratios and times are fractions, so that no rounding decides which samples count.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tests.ops.kerv.kerv_oracle import pad, per_axis, to_float64

Array = np.ndarray
# Function from a position (one coordinate per axis) to the kernel values (O, C/groups) there.
Kernel = Callable[[Sequence[float]], Array]


def fraction(number: Any) -> Fraction:
    """Convert a float such as 0.333... to the simple fraction it approximates."""
    return Fraction(number).limit_denominator(10_000)


def network_at(position: Sequence[float], weights: list, biases: list, activation: str, omega_0: float) -> Array:
    """Outputs of the kernel net at one position, one per unit of the last layer."""
    hidden = np.array([float(p) for p in position])
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if activation == 'rff' and index == 0:  # design: random Fourier features without a phase
            angles = omega_0 * (to_float64(weight) @ hidden)
            hidden = np.array([*map(math.cos, angles), *map(math.sin, angles)])
            continue
        linear = to_float64(weight) @ hidden + to_float64(bias)
        if index == len(weights) - 1:
            return linear
        match activation:
            case 'sine':  # paper section 4.2: omega_0 multiplies (W h + b), the bias included
                hidden = np.array([math.sin(omega_0 * a) for a in linear])
            case 'relu' | 'rff':
                hidden = np.array([max(a, 0.0) for a in linear])
            case 'swish':
                hidden = np.array([a / (1 + math.exp(-a)) for a in linear])
            case _:
                raise ValueError(f'the oracle has no activation {activation!r}')
    raise ValueError('a kernel net has at least one layer after its features')


def gabor_at(position: Sequence[float], mu: Any, gamma: Any, weight: Any, bias: Any) -> Array:
    """FlexConv: a wave in a Gaussian window with its own width along each axis, one value per unit."""
    mu, gamma, weight, bias = map(to_float64, (mu, gamma, weight, bias))
    values = []
    for unit in range(len(bias)):
        exponent, phase = 0.0, bias[unit]
        for axis, p in enumerate(position):
            exponent -= 0.5 * (gamma[unit, axis] * (float(p) - mu[unit, axis])) ** 2
            phase += weight[unit, axis] * float(p)
        values.append(math.exp(exponent) * math.sin(phase))
    return np.array(values)


def magnet_at(position: Sequence[float], filters: list, weights: list, biases: list) -> Array:
    """FlexConv: h = g_0(p); h = g_l(p) * (W_l h + b_l) for l = 1 to L; out = W_o h + b_o."""
    hidden = gabor_at(position, *filters[0])
    for parameters, weight, bias in zip(filters[1:], weights[:-1], biases[:-1], strict=True):
        hidden = gabor_at(position, *parameters) * (to_float64(weight) @ hidden + to_float64(bias))
    return to_float64(weights[-1]) @ hidden + to_float64(biases[-1])


def mask_at(position: Sequence[float], mask_params: Any, crop: float | None, causal: bool = False) -> float:
    """FlexConv: a Gaussian for each axis; 0 outside the centred range that holds all its values above ``crop``."""
    value = 1.0
    for p, (mean, width) in zip(map(float, position), to_float64(mask_params), strict=True):
        value *= math.exp(-0.5 * ((p - mean) / width) ** 2)
        if crop is None:
            continue
        reach = width * math.sqrt(-2 * math.log(crop))
        # design: a causal kernel is cropped on the side of the past alone
        outside = p <= mean - reach if causal else abs(p) >= max(abs(mean - reach), abs(mean + reach))
        value = 0.0 if outside else value
    return value


def kernel_of(op: Any) -> Kernel:
    """The dense kernel (O, C/groups) of an operator's parameters, as a function of the position."""
    layers, options = op.kernel_net.layers, op.options
    weights = [to_float64(layer.weight) for layer in layers]
    biases = [None if layer.bias is None else to_float64(layer.bias) for layer in layers]
    width = op.in_channels // op.groups
    pointwise = None if op.pointwise is None else to_float64(op.pointwise).reshape(op.out_channels, width)

    filters = [(f.mu, f.gamma, f.weight, f.bias) for f in getattr(op.kernel_net, 'filters', ())]

    def kernel(position: Sequence[float]) -> Array:
        if filters:
            values = magnet_at(position, filters, weights, biases)
        else:
            values = network_at(position, weights, biases, options.activation, options.omega_0)
        if op.mask_params is not None:
            values = values * mask_at(position, op.mask_params, options.crop, op.causal)
        if pointwise is None:
            return values.reshape(op.out_channels, width)
        dense = np.zeros((op.out_channels, width))
        for o, i in itertools.product(range(op.out_channels), range(width)):
            # design: depthwise continuous kernel, then 1x1 within each group
            group = o // (op.out_channels // op.groups)
            dense[o, i] = pointwise[o, i] * values[group * width + i]
        return dense

    return kernel


def centred_offsets(size: int, ratio: Any = 1) -> list[Fraction]:
    """Offsets, in training samples, of the samples of a centred kernel of ``size`` at resolution ``ratio``."""
    step, half = 1 / fraction(ratio), Fraction(size - 1, 2)
    reach = 0
    while (reach + 1) * step <= half:
        reach += 1
    return [j * step for j in range(-reach, reach + 1)]


def sampled(kernel: Kernel, sizes: Sequence[int], ratios: Sequence[Any] | None = None) -> Array:
    """The centred kernel (O, C/groups, *sizes) on its grid.

    Design: positions run from -1 to 1 over each axis of the training kernel; values are divided by the ratio of each.
    """
    ratios = [fraction(r) for r in (ratios or [1] * len(sizes))]
    grids = [centred_offsets(size, ratio) for size, ratio in zip(sizes, ratios, strict=True)]
    out = None
    for index in itertools.product(*(range(len(grid)) for grid in grids)):
        offsets = [grid[i] for grid, i in zip(grids, index)]
        position = [float(o / Fraction(size - 1, 2)) if size > 1 else 0.0 for o, size in zip(offsets, sizes)]
        values = kernel(position) / float(math.prod(ratios))
        if out is None:
            out = np.zeros((*values.shape, *map(len, grids)))
        out[(slice(None), slice(None), *index)] = values
    return out


def conv_loop(
    x: Any, kernel: Array, bias: Any = None, *, stride=1, padding=0, dilation=1, groups: int = 1, padding_mode='zeros'
) -> Array:
    """Cross-correlation of ``x`` (N, C, *spatial) with ``kernel`` (O, C/groups, *size), one output at a time."""
    x = to_float64(x)
    outputs, width, *size = kernel.shape
    axes = len(size)
    stride, dilation = per_axis(stride, axes), per_axis(dilation, axes)
    x = pad(x, tuple(size), padding, dilation, padding_mode)
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    shape = [(n - e) // s + 1 for n, e, s in zip(x.shape[2:], extents, stride, strict=True)]
    out = np.zeros((len(x), outputs, *shape))
    for o, position in itertools.product(range(outputs), itertools.product(*map(range, shape))):
        first = o // (outputs // groups) * width
        window = tuple(slice(i * s, i * s + e, d) for i, s, e, d in zip(position, stride, extents, dilation))
        patches = x[(slice(None), slice(first, first + width), *window)]
        out[(slice(None), o, *position)] = [(patch * kernel[o]).sum() for patch in patches]
    return out if bias is None else out + to_float64(bias).reshape(-1, *[1] * axes)


def causal_sum(
    x: Any, kernel: Kernel, size: int, bias: Any = None, *, ratio: Any = 1, dilation=1, stride=1, groups=1
) -> Array:
    """Paper equation 1: y_t = sum over tau of psi(tau) x_{t - tau} / r + b, over lags of 0 to size - 1 samples.

    ``size`` is the kernel size in training, ``ratio`` (r) the number of samples per training sample. Sample j of the
    kernel lies j / r training samples back and is multiplied by the input j * dilation samples back.
    """
    x, ratio = to_float64(x), fraction(ratio)
    batch, _, length = x.shape
    values = []
    while Fraction(len(values)) / ratio <= size - 1 and len(values) * dilation < length:
        lag = Fraction(len(values)) / ratio
        # design: the current sample is at 1, the furthest one at -1
        position = float(1 - 2 * lag / (size - 1)) if size > 1 else 1.0
        values.append(kernel([position]) / float(ratio))
    outputs, width = values[0].shape
    out = np.zeros((batch, outputs, -(-length // stride)))
    for t, o in itertools.product(range(0, length, stride), range(outputs)):
        first = o // (outputs // groups) * width
        for tau, value in enumerate(values):
            if tau * dilation <= t:
                out[:, o, t // stride] += x[:, first : first + width, t - tau * dilation] @ value[o]
    return out if bias is None else out + to_float64(bias)[:, None]


def irregular_sum(x: Any, times: Sequence, kernel: Kernel, size: int, bias: Any = None, *, ratio=1, groups=1) -> Array:
    """Design: y_i = sum over j <= i of psi(t_i - t_j) x_j / r + b, over samples at most size - 1 back."""
    x, times = to_float64(x), [Fraction(t) for t in times]
    batch, _, length = x.shape
    out = None
    for i in range(length):
        for j in range(i + 1):
            if times[i] - times[j] > size - 1:
                continue
            value = kernel([float(1 - 2 * (times[i] - times[j]) / max(size - 1, 1))]) / float(fraction(ratio))
            if out is None:
                out = np.zeros((batch, len(value), length))
            for o, row in enumerate(value):
                first = o // (len(value) // groups) * len(row)
                out[:, o, i] += x[:, first : first + len(row), j] @ row
    return out if bias is None else out + to_float64(bias)[:, None]
