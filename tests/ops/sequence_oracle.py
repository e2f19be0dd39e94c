"""Kernels of sequence layers by loops in float64, from their papers' equations; the current sample comes first."""

import math

import numpy as np
from torch import Tensor, nn


def double(values: Tensor) -> np.ndarray:
    return values.detach().double().numpy()


def lightweight_kernel(op: nn.Module) -> np.ndarray:
    """Each head's taps, exponentiated and divided by their sum, for its channels: (C, 1, k)."""
    weights, (heads, layout) = double(op.head_weight)[:, 0], op.options[:2]
    kernel = np.zeros((op.in_channels, 1, *op.kernel_size))
    for channel in range(op.in_channels):
        head = channel % heads if layout == 'interleaved' else channel // (op.in_channels // heads)
        powers = [math.exp(value) for value in weights[head]]
        kernel[channel, 0] = [power / sum(powers) for power in powers]
    return kernel


def interpolated(values: np.ndarray, times: int) -> list[float]:
    """Values at ``times`` as many points, linearly between the middles of the old samples, constant beyond them."""
    result = []
    for j in range(times * len(values)):
        place = min(max((j + 0.5) / times - 0.5, 0.0), len(values) - 1.0)
        left = min(int(place), len(values) - 1)
        right = min(left + 1, len(values) - 1)
        result.append((1 - (place - left)) * values[left] + (place - left) * values[right])
    return result


def scales_kernel(scales: list[np.ndarray], decay: float) -> np.ndarray:
    """SGConv: scales of 1, 1, 2, 4, ... times their length behind one another, each ``decay`` times smaller."""
    kernel = []
    for i, values in enumerate(scales):
        factor = decay ** (len(scales) - 1 - i)
        kernel += [factor * value for value in interpolated(values, 2 ** max(0, i - 1))]
    return np.array(kernel)


def causal(signal: np.ndarray, filters: np.ndarray, dilation: int) -> np.ndarray:
    """The last value of ``filters`` times the current sample, the others those before it, ``dilation`` apart."""
    out = np.zeros_like(signal)
    for t in range(len(signal)):
        for j, value in enumerate(filters):
            lag = dilation * (len(filters) - 1 - j)
            if lag <= t:
                out[t] += value * signal[t - lag]
    return out


def multiresolution(x: np.ndarray, low: np.ndarray, high: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The multiresolution memory of one channel, fading form: w_0 a + w_last x + sum over levels of w_i (high * a)."""
    depth = len(weights) - 2
    signal, y = x, weights[-1] * x
    for level in range(depth):
        y = y + weights[depth - level] * causal(signal, high, 2**level)
        signal = causal(signal, low, 2**level)
    return y + weights[0] * signal
