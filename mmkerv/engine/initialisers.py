"""Initialisers for ``init_cfg`` beside mmengine's: orthogonal kernels, and depthwise kernels with structure.

mmengine's choose layers by class name, or by the name of an attribute with ``override``; so do these. Operators count
as the convolution they replace, and their ``weight`` alone is drawn.
"""

import math
from typing import Any

import torch
from mmengine.model import BaseInit, update_init_info
from torch import Tensor, nn

from mmkerv.errors import ConfigError
from mmkerv.ops.core import arguments
from mmkerv.registry import WEIGHT_INITIALIZERS

# Least size of the depthwise kernels that get a structure, along both axes.
LEAST_SIZE = 5
# Width of the wider Gaussian of a difference, in widths of the narrower one: the nearest to a Laplacian of a Gaussian
# (Marr and Hildreth, 1980).
WIDER = 1.6
PATTERNS = 7


@torch.no_grad()
def convolution_aware_(weight: Tensor, noise: float = 0.0) -> Tensor:
    r"""Fill a kernel so that the input channels of each filter are orthogonal to each other.

    Each filter is a matrix of I rows, one for each input channel, and as many columns as taps. Its rows are those of
    random orthogonal matrices, one below the other where I exceeds the number of taps, so that
    :math:`M M^T = \frac{2}{I} E` for each block M of as many rows as taps. The mean square of the weights is 2/fan-in,
    that of He's initialisation for ReLU.

    Args:
        weight: (O, I, *size), changed in place.
        noise: standard deviation of a normal number that is added to each weight before the scale is set; the authors
            have 0.05. The rows are then nearly orthogonal.

    Source: Aghajanyan, "Convolution Aware Initialization", 2017, which wants orthogonal filters in Fourier space. By
    Parseval's theorem these are orthogonal in space too; the authors' code takes real half spectra, whose filters are
    symmetric and not orthogonal.

    Example:
        >>> w = convolution_aware_(torch.empty(8, 4, 3, 3)).flatten(2)
        >>> bool(torch.allclose(w @ w.mT, 0.5 * torch.eye(4), atol=1e-6))
        True
    """
    outputs, inputs, *size = weight.shape
    taps = math.prod(size)
    blocks, rows = arguments.ceil_div(inputs, taps), min(inputs, taps)
    columns, triangle = torch.linalg.qr(torch.randn(outputs, blocks, taps, rows, dtype=torch.float64))
    # Of all rotations alike, not of those that the decomposition prefers.
    columns = columns * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    filters = columns.mT.flatten(1, 2)[:, :inputs]
    if noise:
        filters = filters + noise * torch.randn_like(filters)
    scale = math.sqrt(2 / (inputs * taps)) / filters.square().mean().sqrt()
    return weight.copy_((scale * filters).reshape(weight.shape))


@torch.no_grad()
def depthwise_structured_(weight: Tensor, noise: float = 0.1) -> Tensor:
    r"""Fill a depthwise kernel with patterns that trained ones have, one at random for each channel.

    A Gaussian, a difference of two, or a first or second derivative of one (dx, dy, dxx, dyy, dxy), of a width between
    half a tap and a quarter of the kernel, with either sign. Each kernel has norm 1, so that the mean square of its
    weights is 1/fan-in.

    Args:
        weight: (O, 1, kH, kW), changed in place.
        noise: norm of the normal numbers that are added to a pattern of norm 1, before the norm is set again.

    Source: "Unveiling the Unseen: Identifiable Clusters in Trained Depthwise Convolutional Kernels", ICLR 2024: such
    patterns describe more than 90 % of the kernels of trained ConvNeXts. There is no published accuracy of this start.

    Example:
        >>> w = depthwise_structured_(torch.empty(16, 1, 7, 7))
        >>> bool(torch.allclose(w.flatten(1).norm(dim=1), torch.ones(16)))
        True
    """
    channels, _, height, width = weight.shape
    y, x = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    x, y = x.view(1, 1, -1), y.view(1, -1, 1)
    sigma = torch.empty(channels, 1, 1, dtype=torch.float64).uniform_(0.5, min(height, width) / 4)
    patterns = _patterns(x, y, sigma)
    kernels = patterns[torch.randint(PATTERNS, (channels,)), torch.arange(channels)]
    kernels = kernels * (1 - 2 * torch.randint(2, (channels, 1, 1)))
    kernels = kernels / _norm(kernels)
    kernels = kernels + noise / math.sqrt(height * width) * torch.randn_like(kernels)
    return weight.copy_((kernels / _norm(kernels)).unsqueeze(1))


def _patterns(x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """Return (7, C, kH, kW): Gaussian, difference, dx, dy, dxx, dyy, dxy of widths (C, 1, 1)."""
    narrow, wide = (torch.exp(-(x**2 + y**2) / (2 * s**2)) for s in (sigma, WIDER * sigma))
    narrow, wide = (g / g.sum((1, 2), keepdim=True) for g in (narrow, wide))
    along, across = x / sigma, y / sigma
    factors = [along, across, along**2 - 1, across**2 - 1, along * across]
    return torch.stack([narrow, narrow - wide, *(factor * narrow for factor in factors)])


def _norm(kernels: Tensor) -> Tensor:
    return kernels.flatten(1).norm(dim=1).view(-1, 1, 1)


class LayerInit(BaseInit):
    """Base of the initialisers: chooses layers as mmengine's do, draws the weight and sets the bias of each.

    Args:
        noise: see the classes, >= 0.
        bias: value of the biases.
        bias_prob: probability that gives the biases, as in mmengine's initialisers.
        layer: name of the class, or names of classes, of the layers.

    Raises:
        ConfigError: when called, if nothing in the module is such a layer.

    Example:
        >>> ConvolutionAwareInit(layer='Conv2d').layer
        ['Conv2d']
    """

    # What it initialises, for messages.
    wanted = ''
    default_noise = 0.0

    def __init__(self, noise: float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.noise = self.default_noise if noise is None else arguments.real(noise, 'noise', 0)

    def takes(self, layer: nn.Module) -> bool:
        """Return ``True`` if it initialises a layer of this shape.

        Example:
            >>> ConvolutionAwareInit().takes(nn.Conv2d(3, 8, 3)), ConvolutionAwareInit().takes(nn.Linear(3, 8))
            (True, False)
        """
        weight = getattr(layer, 'weight', None)
        return isinstance(weight, Tensor) and weight.dim() > 2 and not getattr(layer, 'transposed', False)

    def draw(self, weight: Tensor) -> None:
        """Fill the weight of a layer, in place.

        Example:
            >>> ConvolutionAwareInit().draw(torch.empty(8, 3, 3, 3))
        """
        raise NotImplementedError(f'{type(self).__name__} must implement draw')

    def __call__(self, module: nn.Module) -> None:
        """Initialise the chosen layers of ``module``; with ``override``, all in it that it applies to.

        Raises:
            ConfigError: if there is none, but ``layer`` or ``override`` chooses some.

        Example:
            >>> ConvolutionAwareInit(layer='Conv2d')(nn.Sequential(nn.Conv2d(3, 8, 3)))
        """
        layers = []

        def choose(m: nn.Module) -> None:
            names = {type(m).__name__, *(base.__name__ for base in type(m).__bases__)}
            if (self.wholemodule or names & set(self.layer)) and self.takes(m):
                layers.append(m)

        # As mmengine's initialisers do: operators apply it to themselves alone, not to the layers inside.
        module.apply(choose)
        # With override alone mmengine calls it for no layers first. Without both it does nothing, as mmengine's do.
        if not layers and (self.wholemodule or self.layer):
            chosen = '' if self.wholemodule else f' among the layers of class {", ".join(self.layer)}'
            raise ConfigError(
                f'{type(self).__name__} is for {self.wanted}, and {type(module).__name__} has none{chosen}; choose '
                "others with layer='Conv2d' or override=dict(name=...), or take it out of init_cfg"
            )
        for layer in layers:
            self.draw(layer.weight)
            if getattr(layer, 'bias', None) is not None:
                nn.init.constant_(layer.bias, self.bias)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _get_init_info(self) -> str:
        return f'{type(self).__name__}: noise={self.noise}, bias={self.bias}'


@WEIGHT_INITIALIZERS.register_module()
class ConvolutionAwareInit(LayerInit):
    r"""Draw convolutions whose filters are orthogonal over their input channels, with :func:`convolution_aware_`.

    ``init_cfg=dict(type='mmkerv.ConvolutionAwareInit', layer='Conv2d')``. The mean square of the weights is 2/fan-in.
    Kernels of one tap, in which there is nothing to be orthogonal, are normal numbers of that variance.

    Args:
        noise: standard deviation of what is added before the scale is set; 0, exactly orthogonal, by default.
        bias, bias_prob, layer: as in mmengine's initialisers.

    Raises:
        ValueError: if ``noise`` is negative.
        ConfigError: when called, if no convolution is chosen. Transposed ones and linear layers are none.

    Source: Aghajanyan, "Convolution Aware Initialization", 2017.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
        >>> ConvolutionAwareInit(layer='Conv2d')(net)
        >>> round(float(net[0].weight.square().mean()), 4), 2 / (4 * 9)
        (0.0556, 0.05555555555555555)
    """

    wanted = 'convolutions'

    def draw(self, weight: Tensor) -> None:
        """Fill the weight of a layer, in place.

        Example:
            >>> ConvolutionAwareInit().draw(torch.empty(8, 3, 3, 3))
        """
        if weight[0, 0].numel() == 1:
            nn.init.normal_(weight, std=math.sqrt(2 / weight.shape[1]))
        else:
            convolution_aware_(weight, self.noise)


@WEIGHT_INITIALIZERS.register_module()
class DepthwiseStructuredInit(LayerInit):
    r"""Draw depthwise convolutions of 5x5 and more from patterns of trained ones, with :func:`depthwise_structured_`.

    It leaves all other layers as they are, so it goes behind the initialiser of the network: ``init_cfg=[dict(
    type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.0), dict(type='mmkerv.DepthwiseStructuredInit',
    layer='Conv2d')]``.

    Args:
        noise: share of the norm of a kernel that is random, 0.1 by default.
        bias, bias_prob, layer: as in mmengine's initialisers.

    Raises:
        ValueError: if ``noise`` is negative.
        ConfigError: when called, if no depthwise convolution with at least 5 taps along both axes is chosen.

    Source: "Unveiling the Unseen: Identifiable Clusters in Trained Depthwise Convolutional Kernels", ICLR 2024.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(8, 8, 7, groups=8), nn.Conv2d(8, 8, 1))
        >>> before = net[1].weight.clone()
        >>> DepthwiseStructuredInit(layer='Conv2d')(net)
        >>> bool(torch.equal(net[1].weight, before)), float(net[0].weight.square().sum().round(decimals=3))
        (True, 8.0)
    """

    wanted = f'depthwise convolutions of {LEAST_SIZE}x{LEAST_SIZE} and more'
    default_noise = 0.1

    def takes(self, layer: nn.Module) -> bool:
        """Return ``True`` for a depthwise convolution of images with at least 5 taps along both axes.

        Example:
            >>> DepthwiseStructuredInit().takes(nn.Conv2d(8, 8, 7, groups=8))
            True
        """
        if not super().takes(layer) or layer.weight.dim() != 4:
            return False
        _, width, *size = layer.weight.shape
        return width == 1 and getattr(layer, 'groups', 1) > 1 and min(size) >= LEAST_SIZE

    def draw(self, weight: Tensor) -> None:
        """Fill the weight of a layer, in place.

        Example:
            >>> DepthwiseStructuredInit().draw(torch.empty(8, 1, 7, 7))
        """
        depthwise_structured_(weight, self.noise)
