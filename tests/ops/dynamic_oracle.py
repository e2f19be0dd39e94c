"""Operators whose kernel depends on the input, from their equations in float64: what is convolved, and with what."""

import cmath
import math

import numpy as np
from torch import Tensor, nn

from mmkerv.ops import CondConv2d, FDConv2d


def array(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


def sigmoid(t: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-t))


def normalised(z: np.ndarray, norm: nn.Module) -> np.ndarray:
    """Layer norm, or batch norm with its running statistics, of vectors (N, C)."""
    if isinstance(norm, nn.BatchNorm2d):
        mean, variance = array(norm.running_mean), array(norm.running_var)
    else:
        mean, variance = z.mean(1, keepdims=True), z.var(1, keepdims=True)
    return (z - mean) / np.sqrt(variance + norm.eps) * array(norm.weight) + array(norm.bias)


def linear(h: np.ndarray, layer: nn.Module) -> np.ndarray:
    return h @ array(layer.weight).T + array(layer.bias)


def dft(n: int) -> np.ndarray:
    """The matrix of the discrete Fourier transform of length n."""
    return np.array([[cmath.exp(-2j * math.pi * a * b / n) for b in range(n)] for a in range(n)])


def signed(index: int, n: int) -> int:
    return index - n if 2 * index >= n and index else index


def band_of(rows: int, columns: int, bands: int) -> dict[tuple[int, int], int]:
    """The band of each coefficient (m, n) of a half spectrum, its frequencies in increasing order."""
    half = columns // 2 + 1
    keys = [((signed(m, rows) * columns) ** 2 + (n * rows) ** 2, m, n) for m in range(rows) for n in range(half)]
    larger, size = len(keys) % bands, len(keys) // bands
    sizes = [size + 1] * larger + [size] * (bands - larger)
    numbers = [band for band, count in enumerate(sizes) for _ in range(count)]
    return {(m, n): band for (_, m, n), band in zip(sorted(keys), numbers)}


def scaled_spectrum(matrix: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """The real matrix whose frequencies are those of ``matrix``, those of each band scaled by its gain."""
    rows, columns = matrix.shape
    band = band_of(rows, columns, len(gains))
    spectrum = dft(rows) @ matrix @ dft(columns)
    for m, n in np.ndindex(rows, columns):
        # Of a real matrix, the coefficients at (m, n) and (-m, -n) belong together.
        pair = [band[key] for key in ((m, n), (-m % rows, -n % columns)) if key in band]
        spectrum[m, n] *= np.mean([gains[b] for b in pair])
    return (np.conj(dft(rows)) @ spectrum @ np.conj(dft(columns))).real / (rows * columns)


def fdconv_kernels(op: FDConv2d, x: np.ndarray) -> np.ndarray:
    """K(x) = s c f l V(x), for each sample."""
    options, weight = op.options, array(op.weight)
    outputs, width, height, across = weight.shape
    per_group = outputs // op.groups
    z, (samples, inputs) = x.mean((2, 3)), x.shape[:2]
    kernels = np.repeat(weight[None], samples, 0)
    if options.ksm_global:
        h = normalised(z @ array(op.squeeze.weight).T, op.squeeze.norm)
        h = array(op.squeeze.scale) * np.maximum(h, 0) ** 2 + array(op.squeeze.shift)
        t = options.temperature
        c, f, bands = (2 * sigmoid(linear(h, g) / t) for g in (op.channel_gate, op.filter_gate, op.band_gate))
        s = np.ones((samples, height, across))
        if height * across > 1:
            s = (2 * sigmoid(linear(h, op.spatial_gate) / t)).reshape(s.shape)
        for sample in range(samples):
            for group in range(op.groups):
                own = slice(group * per_group, (group + 1) * per_group)
                matrix = weight[own].transpose(0, 2, 1, 3).reshape(per_group * height, width * across)
                matrix = scaled_spectrum(matrix, bands[sample])
                kernels[sample, own] = matrix.reshape(per_group, height, width, across).transpose(0, 2, 1, 3)
            for o, i in np.ndindex(outputs, width):
                channel = o // per_group * width + i
                kernels[sample, o, i] *= f[sample, o] * c[sample, channel] * s[sample]
    if options.ksm_local:
        logits = normalised(z, op.local_norm)
        taps = array(op.local_gate.weight).reshape(outputs, height, across, -1)
        reach = taps.shape[3] // 2
        for sample, o, i, a, b in np.ndindex(samples, *weight.shape):
            channel = o // per_group * width + i
            near = range(max(channel - reach, 0), min(channel + reach + 1, inputs))
            total = sum(taps[o, a, b, other - channel + reach] * logits[sample, other] for other in near)
            kernels[sample, o, i, a, b] *= 2 * sigmoid(total)
    return kernels


def low_pass(x: np.ndarray, k: int, limit: float) -> np.ndarray:
    """The frequencies of maps (N, C, H, W) below 1 / (2 k) in both directions, or up to it with a positive limit."""
    for axis, n in ((2, x.shape[2]), (3, x.shape[3])):
        kept = np.diag([1.0 if abs(signed(m, n)) / n < 1 / (2 * k) + limit else 0.0 for m in range(n)])
        projection = (np.conj(dft(n)) @ kept @ dft(n)).real / n
        x = np.moveaxis(np.tensordot(projection, x, (1, axis)), 0, axis)
    return x


def fdconv_features(op: FDConv2d, x: np.ndarray) -> np.ndarray:
    """FBM(x) = sum_i m_i (X_(i-1) - X_i) + X_3."""
    if not op.options.fbm or op.kernel_size == (1, 1):
        return x
    weight, bias = array(op.band_maps.weight), array(op.band_maps.bias)
    bordered = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total, before = np.zeros_like(x), x
    for i, k in enumerate((2, 4, 8)):
        logits = np.full((len(x), *x.shape[2:]), bias[i])
        for a, b in np.ndindex(3, 3):
            window = bordered[:, :, a : a + x.shape[2], b : b + x.shape[3]]
            logits += np.einsum('nchw,c->nhw', window, weight[i, :, a, b])
        # The authors' code adds 1e-8, which is lost in float32 for k = 2.
        lower = low_pass(x, k, 1e-8 if op.options.band_order == 'official' and k > 2 else 0)
        total, before = total + 2 * sigmoid(logits)[:, None] * (before - lower), lower
    return total + before


def condconv_kernels(op: CondConv2d, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """K(x) = c f s (W + sum_e (r_e - r0) W_e), and b + sum_e (r_e - r0) b_e, for each sample."""
    options, weight, samples = op.options, array(op.weight), len(x)
    h = x.mean((2, 3))
    if options.reduction is not None:
        h = np.maximum(normalised(h @ array(op.squeeze.weight).T, op.squeeze.norm), 0)
    kernels = np.repeat(weight[None], samples, 0)
    biases = None if op.bias is None else np.repeat(array(op.bias)[None], samples, 0)
    if options.kernel:
        logits = linear(h, op.route) / options.temperature
        r = sigmoid(logits) - 0.5
        if options.routing == 'softmax':
            r = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - 1 / options.experts
        for sample, expert in np.ndindex(samples, options.experts):
            kernels[sample] += r[sample, expert] * array(op.experts)[expert].reshape(weight.shape)
            if biases is not None:
                biases[sample] += r[sample, expert] * array(op.expert_bias)[expert]
    gates = {}
    for name in ('channel', 'filter', 'spatial'):
        gate = getattr(op, f'{name}_gate')
        gates[name] = None if gate is None else 2 * sigmoid(linear(h, gate) / options.temperature)
    for sample, o, i, a, b in np.ndindex(kernels.shape):
        channel = o // (len(weight) // op.groups) * weight.shape[1] + i
        for name, index in (('channel', channel), ('filter', o), ('spatial', a * weight.shape[3] + b)):
            if gates[name] is not None:
                kernels[sample, o, i, a, b] *= gates[name][sample, index]
    return kernels, biases


def parts(op: nn.Module, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The maps (N, C, H, W) that are convolved, the kernels (N, O, C/groups, kH, kW) and the biases (N, O)."""
    if isinstance(op, CondConv2d):
        return x, *condconv_kernels(op, x)
    return fdconv_features(op, x), fdconv_kernels(op, x), None
