"""Slow, obvious reference for kervolution: one patch and one filter at a time, in numpy float64.

Nothing here uses the package under test. "Paper" is Wang, Yang, Xie and Yuan, "Kervolutional Neural Networks", CVPR
2019; "design" is this project's design, section 2.2. Every rule names which of the two it comes from.
"""

import itertools
import math
from typing import Any

import numpy as np

Array = np.ndarray

# Names in numpy of the padding modes of nn.Conv2d.
PAD_MODES = {'zeros': 'constant', 'reflect': 'reflect', 'replicate': 'edge', 'circular': 'wrap'}


def to_float64(tensor: Any) -> Array:
    """Copy a torch tensor (or anything array-like) into a numpy float64 array."""
    if hasattr(tensor, 'detach'):
        tensor = tensor.detach().cpu().double().numpy()
    return np.array(tensor, dtype=np.float64)


def inner_product(patch: Array, filter_: Array) -> float:
    """s = <x_i, w>."""
    return math.fsum(a * b for a, b in zip(patch, filter_, strict=True))


def squared_distance(patch: Array, filter_: Array) -> float:
    """d2 = |x_i - w|^2, by differences, so never negative."""
    return math.fsum((a - b) ** 2 for a, b in zip(patch, filter_, strict=True))


def absolute_distance(patch: Array, filter_: Array) -> float:
    """Sum of |x_i - w|."""
    return math.fsum(abs(a - b) for a, b in zip(patch, filter_, strict=True))


def arc_cosine(patch: Array, filter_: Array, order: int) -> float:
    """Cho and Saul, "Kernel methods for deep learning", NIPS 2009, eq. 3 to 6: |x|^n |w|^n J_n(theta) / pi."""
    norms = math.sqrt(inner_product(patch, patch)) * math.sqrt(inner_product(filter_, filter_))
    cosine = inner_product(patch, filter_) / norms if norms else 0.0
    theta = math.acos(min(1.0, max(-1.0, cosine)))
    angular = {
        0: math.pi - theta,
        1: math.sin(theta) + (math.pi - theta) * math.cos(theta),
        2: 3 * math.sin(theta) * math.cos(theta) + (math.pi - theta) * (1 + 2 * math.cos(theta) ** 2),
    }[order]
    return norms**order * angular / math.pi


def response(kernel: str, patch: Array, filter_: Array, **values: float) -> float:
    """Response of one flattened filter to one flattened patch; ``values`` are the hyperparameters of its channel."""
    match kernel:
        case 'linear':  # paper eq. 2
            return inner_product(patch, filter_)
        case 'polynomial':  # paper eq. 10
            return (inner_product(patch, filter_) + values['balance']) ** int(values['degree'])
        case 'gaussian':  # paper eq. 11
            return math.exp(-values['gamma'] * squared_distance(patch, filter_))
        case 'sigmoid':  # paper section 4.1
            return math.tanh(inner_product(patch, filter_))
        case 'l1':  # paper eq. 9a
            return absolute_distance(patch, filter_)
        case 'l2':  # paper eq. 9b
            return math.sqrt(squared_distance(patch, filter_))
        case 'manhattan':  # design: minus the sum of absolute differences
            return -absolute_distance(patch, filter_)
        case 'euclidean':  # design: minus the squared distance
            return -squared_distance(patch, filter_)
        case 'laplacian':
            return math.exp(-values['gamma'] * math.sqrt(squared_distance(patch, filter_)))
        case 'cauchy':
            return 1 / (1 + values['gamma'] * squared_distance(patch, filter_))
        case 'rational quadratic':
            # Rasmussen and Williams, eq. 4.19, with gamma for 1 / (2 l^2)
            return (1 + values['gamma'] * squared_distance(patch, filter_) / values['alpha']) ** -values['alpha']
        case 'arc-cosine':
            return arc_cosine(patch, filter_, int(values['order']))
    raise ValueError(f'the oracle has no kernel {kernel!r}')


def pad(x: Array, size: tuple[int, ...], padding, dilation: tuple[int, ...], mode: str) -> Array:
    """Pad the spatial axes of ``x`` as nn.Conv*d does; an odd total of 'same' goes to the end."""
    if padding == 'valid':
        padding = 0
    if padding == 'same':
        totals = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        widths = [(total // 2, total - total // 2) for total in totals]
    else:
        widths = [(p, p) for p in per_axis(padding, len(size))]
    return np.pad(x, [(0, 0), (0, 0), *widths], mode=PAD_MODES[mode])


def per_axis(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def kerv_loop(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    kernel: str,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
    padding_mode: str = 'zeros',
    **hyperparameters: Any,
) -> Array:
    """Kervolution of ``x`` (N, C, *spatial) with ``weight`` (O, C/groups, *size), over any number of spatial axes.

    A hyperparameter is a number, or one number per output channel.
    """
    x, weight = to_float64(x), to_float64(weight)
    bias = None if bias is None else to_float64(bias).tolist()
    n_filters, n_inputs, *size = weight.shape
    axes = len(size)
    stride, dilation = per_axis(stride, axes), per_axis(dilation, axes)
    x = pad(x, tuple(size), padding, dilation, padding_mode)
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    shape = [(length - e) // s + 1 for length, e, s in zip(x.shape[2:], extents, stride, strict=True)]
    values = {
        name: np.broadcast_to(to_float64(value).reshape(-1), n_filters) for name, value in hyperparameters.items()
    }

    out = np.zeros((x.shape[0], n_filters, *shape))
    for n, o in itertools.product(range(x.shape[0]), range(n_filters)):
        first = o // (n_filters // groups) * n_inputs
        filter_ = weight[o].reshape(-1).tolist()
        mine = {name: float(value[o]) for name, value in values.items()}
        for position in itertools.product(*map(range, shape)):
            window = tuple(
                slice(i * s, i * s + e, d) for i, s, e, d in zip(position, stride, extents, dilation, strict=True)
            )
            patch = x[(n, slice(first, first + n_inputs), *window)].reshape(-1).tolist()
            # design: the bias is added after the kernel
            out[(n, o, *position)] = response(kernel, patch, filter_, **mine) + (0 if bias is None else bias[o])
    return out
