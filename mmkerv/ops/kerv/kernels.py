"""Built-in kernels of kervolution, each a function of s = <x, w>, d2 = |x - w|^2 or d1 = sum |x - w|."""

import math

import torch
from torch import Tensor

from mmkerv.errors import ArgumentError
from mmkerv.ops.kerv.integer_power import integer_power
from mmkerv.ops.kerv.registry import register_kernel
from mmkerv.ops.kerv.squared_distance import distance


@register_kernel('linear', family='dot')
def linear(s: Tensor) -> Tensor:
    r"""Inner product, :math:`s`, as in a convolution. Source: Kervolutional Neural Networks, CVPR 2019, equation 2.

    Example:
        >>> linear(torch.tensor([2.0]))
        tensor([2.])
    """
    return s


@register_kernel('polynomial', family='dot')
def polynomial(s: Tensor, *, degree: int, balance: Tensor | float) -> Tensor:
    r"""Polynomial :math:`(s + c)^n`, c ``balance``, n ``degree``. Source: Kervolutional Neural Networks, equation 10.

    Example:
        >>> polynomial(torch.tensor([2.0]), degree=3, balance=1.0)
        tensor([27.])
    """
    shifted = s if isinstance(balance, float) and balance == 0 else s + balance
    return integer_power(shifted, degree)


@register_kernel('sigmoid', family='dot')
def sigmoid(s: Tensor) -> Tensor:
    r"""Hyperbolic tangent, :math:`\tanh s`. Source: Kervolutional Neural Networks, section 4.1.

    Example:
        >>> sigmoid(torch.tensor([0.0]))
        tensor([0.])
    """
    return torch.tanh(s)


@register_kernel('gaussian', family='radial')
def gaussian(d2: Tensor, *, gamma: Tensor | float) -> Tensor:
    r"""Gaussian kernel, :math:`\exp(-\gamma d^2)`. Source: Kervolutional Neural Networks, equation 11.

    Example:
        >>> gaussian(torch.tensor([0.0, 1.0]), gamma=1.0)
        tensor([1.0000, 0.3679])
    """
    return (d2 * -gamma).exp_()


@register_kernel('l2', family='radial')
def l2(d2: Tensor) -> Tensor:
    r"""Euclidean distance, :math:`|x - w|_2`. Source: Kervolutional Neural Networks, equation 9b.

    Example:
        >>> l2(torch.tensor([4.0]))
        tensor([2.])
    """
    return distance(d2)


@register_kernel('euclidean', family='radial')
def euclidean(d2: Tensor) -> Tensor:
    r"""Similarity :math:`-|x - w|^2`, not a distance: this is what the authors' code computes under the name.

    Example:
        >>> euclidean(torch.tensor([4.0]))
        tensor([-4.])
    """
    return -d2


@register_kernel('l1', family='manhattan')
def l1(d1: Tensor) -> Tensor:
    r"""Manhattan distance, :math:`|x - w|_1`. Source: Kervolutional Neural Networks, equation 9a.

    Example:
        >>> l1(torch.tensor([4.0]))
        tensor([4.])
    """
    return d1


@register_kernel('manhattan', family='manhattan')
def manhattan(d1: Tensor) -> Tensor:
    r"""Similarity :math:`-|x - w|_1`, not a distance: this is what the authors' code computes under the name.

    Example:
        >>> manhattan(torch.tensor([4.0]))
        tensor([-4.])
    """
    return -d1


@register_kernel('laplacian', family='radial')
def laplacian(d2: Tensor, *, gamma: Tensor | float) -> Tensor:
    r"""Exponential kernel, :math:`\exp(-\gamma |x - w|_2)`.

    Source: Genton, Classes of Kernels for Machine Learning: A Statistics Perspective, JMLR 2 (2001).

    Example:
        >>> laplacian(torch.tensor([4.0]), gamma=0.5)
        tensor([0.3679])
    """
    return (distance(d2) * -gamma).exp_()


@register_kernel('cauchy', family='radial')
def cauchy(d2: Tensor, *, gamma: Tensor | float) -> Tensor:
    r"""Cauchy kernel, :math:`1 / (1 + \gamma d^2)`.

    Source: Basak, A least square kernel machine with box constraints, ICPR 2008.

    Example:
        >>> cauchy(torch.tensor([1.0]), gamma=1.0)
        tensor([0.5000])
    """
    return (d2 * gamma).add_(1).reciprocal_()


@register_kernel('rational quadratic', family='radial')
def rational_quadratic(d2: Tensor, *, gamma: Tensor | float, alpha: Tensor | float = 1.0) -> Tensor:
    r"""Mixture of Gaussian kernels, :math:`(1 + \gamma d^2 / \alpha)^{-\alpha}`; Gaussian for large ``alpha``.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equation 4.19.

    Example:
        >>> rational_quadratic(torch.tensor([2.0]), gamma=1.0, alpha=2.0)
        tensor([0.2500])
    """
    return torch.exp(-alpha * torch.log1p(d2 * gamma / alpha))


@register_kernel('arc-cosine', family='dot')
def arc_cosine(s: Tensor, *, x2: Tensor, w2: Tensor, order: int = 1) -> Tensor:
    r"""Kernel of an infinitely wide layer, :math:`|x|^n |w|^n J_n(\theta) / \pi` with :math:`\cos\theta = s/(|x||w|)`.

    :math:`J_0 = \pi - \theta` (threshold units), :math:`J_1 = \sin\theta + (\pi - \theta)\cos\theta` (ReLU),
    :math:`J_2 = 3 \sin\theta\cos\theta + (\pi - \theta)(1 + 2\cos^2\theta)`; n is ``order``: 0, 1 or 2.

    Raises:
        ValueError: for any other order.

    Source: Cho and Saul, Kernel methods for deep learning, NIPS 2009, equations 3 to 6.

    Example:
        >>> arc_cosine(torch.tensor([0.0]), x2=torch.tensor([1.0]), w2=torch.tensor([1.0]))
        tensor([0.3183])
    """
    if order not in (0, 1, 2):
        raise ArgumentError(f'order of the arc-cosine kernel must be 0, 1 or 2, got {order}')
    limits = torch.finfo(s.dtype)
    squares = x2 * w2
    # A patch or filter of zeros has no angle; it is treated as orthogonal, with gradient 0.
    defined = squares > limits.tiny
    norms = squares.masked_fill(~defined, 1.0).sqrt()
    # For parallel vectors the derivatives of acos and sqrt are infinite, that of the kernel is not: clamp just short of
    # parallel.
    cosine = (s / norms).masked_fill(~defined, 0.0).clamp(4 * limits.eps - 1, 1 - 4 * limits.eps)
    supplement = math.pi - torch.acos(cosine)
    if order == 0:
        return supplement / math.pi
    norms = norms.masked_fill(~defined, 0.0)
    sine = (1 - cosine * cosine).sqrt()
    if order == 1:
        return norms * (sine + supplement * cosine) / math.pi
    return norms * norms * (3 * sine * cosine + supplement * (1 + 2 * cosine * cosine)) / math.pi
