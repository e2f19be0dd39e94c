"""CKConv2d: two-dimensional convolution with a continuous kernel, which a small network computes from the position.

y = conv2d(x, K, b), K[o, i, j] = psi(p_j)[o, i].
CKConv: Continuous Kernel Convolution For Sequential Data, ICLR 2022; two dimensions as in FlexConv, ICLR 2022.
"""

from typing import Any

from torch import Tensor, nn

from mmkerv.ops.ckconv.base import ContinuousKernel
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.geometry import extended_padding, odd
from mmkerv.ops.core.tracing import fx_leaf


class CKConv2d(ContinuousKernel, Conv2d):
    r"""Continuous-kernel convolution: ``conv2d`` with a kernel that a small network computes from the position.

    :math:`y = \mathrm{conv2d}(x, K, b)` with :math:`K_{oi}(p) = \psi(p)_{oi}`, p on a grid over [-1, 1] x [-1, 1]

    x (N, C, H, W), y (N, O, H', W'), K (O, C/groups, kH, kW). The number of parameters does not depend on the kernel's
    size, and the same kernel can be sampled at another resolution (:meth:`set_resolution`). There is no basic kernel:
    ``weight`` is ``None``. The layer is equivalent to one plain convolution, which :meth:`to_conv2d` returns; for a
    separable layer it returns a depthwise and a 1x1 convolution, or a single one with ``dense=True``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``. The kernel sizes must be odd; sizes up to that of the feature map are useful.
        hidden: width of the kernel net, >= 1.
        layers: number of linear layers of the kernel net, >= 2.
        omega_0: angular frequency of its sine layers, > 0. Higher values give rougher kernels; beyond about
            ``pi * (k - 1) / 2`` neighbouring samples are unrelated, so changing the resolution is meaningless.
        activation: ``'sine'``, ``'relu'``, ``'swish'`` or ``'rff'`` (random Fourier features, then ReLU).
        separable: use a depthwise continuous kernel followed by a 1x1 convolution; for wide layers, where the last
            layer of a dense kernel net would have ``hidden * O * C`` weights.
        method: ``'direct'``, ``'fft'``, or ``'auto'``, the cheaper of the two by a measured cost model. A stride needs
            ``'direct'`` or ``'auto'``. By Fourier transforms each output depends on the whole image, so a NaN or an
            infinite number makes the whole output of its image NaN; ``'direct'`` spoils only the outputs whose window
            holds it.
        weight_norm: normalise the weights of the kernel net's layers, w = g v / \|v\|. The state dict then holds
            ``weight_g`` and ``weight_v`` of each layer, and either form loads the other's checkpoints.
        init: ``'fan_in'`` starts with a kernel of variance 1 / fan_in; ``'official'`` as the authors' published code,
            with weights of the kernel net uniform in +-1 / sqrt(inputs), its biases in +-1, and ``bias`` 0; for sine
            layers only.
        net: ``'mlp'``, or ``'magnet'``: FlexConv's products of waves in Gaussian windows, see ``magnet_kernel``.
            ``layers`` is then the number of products, and ``omega_0`` a factor on the initial frequencies of the waves
            (the paper has 25.6). It takes no ``activation``, ``weight_norm`` or ``init``.
        mask: ``'gaussian'`` multiplies the kernel by a Gaussian with a learned mean and width for each axis, so that
            the layer learns how large its kernel is.
        mask_init: initial width of the mask; the kernel extends from -1 to 1. The width is kept at half a step between
            samples or more: a narrower mask would leave one sample, at which the width has no gradient.
        crop: set the kernel to 0 outside the centred rectangle that holds all values of the mask above this one; the
            paper has 0.1.

    Attributes:
        mask_params: mean and width of the mask for each axis, (2, 2); ``None`` without a mask. FlexConv trains it
            with a tenth of the learning rate and without weight decay, as our tools do.

    Raises:
        ValueError: if a value or a combination of values is invalid, for example an even ``kernel_size``.
        TypeError: if an argument is unknown or has the wrong type.

    Source: CKConv, ICLR 2022; the initial variance 1 / fan_in, ``net='magnet'``, ``mask`` and ``crop`` are those of
        FlexConv, ICLR 2022.

    Example:
        >>> import torch
        >>> conv = CKConv2d(16, 32, 7, padding=3)
        >>> print(conv.extra_repr())
        16, 32, kernel_size=(7, 7), stride=(1, 1), padding=(3, 3)
        >>> conv(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    @fx_leaf
    def forward(self, input: Tensor, scale_factor: float | tuple[float, float] | None = None) -> Tensor:
        """Convolve ``input`` (N, C, H, W) with the sampled kernel; returns (N, O, H', W').

        Args:
            input: image.
            scale_factor: resolution for this call, see :meth:`set_resolution`; defaults to the layer's.

        Raises:
            ValueError: for a resolution that leaves the kernel no sample besides the current one.
            RuntimeError: in training inside ``frozen_kernels`` with gradients enabled.

        Example:
            >>> import torch
            >>> op, image = CKConv2d(3, 8, 7, padding=3), torch.randn(1, 3, 32, 32)
            >>> op(image).shape, op(image[..., ::2, ::2], scale_factor=0.5).shape
            (torch.Size([1, 8, 32, 32]), torch.Size([1, 8, 16, 16]))
        """
        ratio = self._ratio(scale_factor)
        kernel = self._current_kernel() if ratio == self.resolution else self._sampled(ratio)
        return self._apply_kernel(input, kernel, ratio)


class CKConv(PlainFor1x1):
    """Class to name in configs: builds :class:`CKConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    A continuous function of the position has no use in a 1x1 kernel, so such a kernel stays plain unless
    ``replace_1x1=True``. The operator's arguments are checked in both cases.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`CKConv2d`.
        kernel_extent: size of the continuous kernel in place of ``kernel_size``, odd, one integer or two; the padding
            becomes padding + dilation * (extent - kernel_size) // 2, so that the output keeps its size.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`CKConv2d`, and if there is no such padding for ``kernel_extent``.
        TypeError: as :class:`CKConv2d`.

    Example:
        >>> conv = CKConv(8, 8, 3, stride=2, padding=1, kernel_extent=7)
        >>> type(conv).__name__, conv.kernel_size, conv.padding, conv.stride
        ('CKConv2d', (7, 7), (3, 3), (2, 2))
        >>> type(CKConv(8, 8, 1, kernel_extent=7)).__name__
        'Conv2d'
    """

    operator = CKConv2d
    keywords = ('kernel_extent', 'replace_1x1')

    def __new__(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *args: Any,
        kernel_extent: Any = None,
        replace_1x1: bool = False,
        **kwargs: Any,
    ) -> nn.Module:
        """Build the layer."""
        arguments.boolean(replace_1x1, 'replace_1x1')
        if kernel_extent is not None:
            odd(arguments.integers(kernel_extent, 2, 'kernel_extent', 1), 'kernel_extent')
            size = arguments.integers(kernel_size, 2, 'kernel_size', 1)
            if replace_1x1 or not CKConv2d.leaves_plain(in_channels, size, groups):
                padding = extended_padding(kernel_size, kernel_extent, padding, dilation)
                # An extent of 1 was requested explicitly, so the layer does not stay plain.
                kernel_size, replace_1x1 = kernel_extent, True
        geometry = (kernel_size, stride, padding, dilation, groups)
        return super().__new__(cls, in_channels, out_channels, *geometry, *args, replace_1x1=replace_1x1, **kwargs)

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any] | None:
        """Return the ``conv_cfg`` of the folded layer, or ``None`` for a plain convolution of the same shape.

        Args:
            conv_cfg: the config that the layer was built with.

        Example:
            >>> CKConv.deploy_cfg(dict(type='CKConv', kernel_extent=7, hidden=16))
            {'type': 'mmkerv.FoldedConv', 'kernel_extent': 7}
        """
        shape = {key: conv_cfg[key] for key in ('kernel_extent', 'separable', 'replace_1x1') if conv_cfg.get(key)}
        return dict(type='mmkerv.FoldedConv', **shape) if shape else None


class FlexConv(CKConv):
    """Class to name in configs: :class:`CKConv` that learns its size, ``net='magnet', mask='gaussian', crop=0.1``.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`CKConv`, with these other defaults.
        net: as in :class:`CKConv2d`.
        mask: as in :class:`CKConv2d`.
        crop: as in :class:`CKConv2d`.

    Raises:
        ValueError: as :class:`CKConv`.
        TypeError: as :class:`CKConv`.

    Source: FlexConv, ICLR 2022, section 3.

    Example:
        >>> FlexConv(8, 8, 3, padding=1, kernel_extent=9, hidden=4).mask_params.shape
        torch.Size([2, 2])
    """

    def __new__(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *args: Any,
        net: str = 'magnet',
        mask: str | None = 'gaussian',
        crop: float | None = 0.1,
        **kwargs: Any,
    ) -> nn.Module:
        """Build the layer."""
        return super().__new__(
            cls, in_channels, out_channels, kernel_size, *args, net=net, mask=mask, crop=crop, **kwargs
        )
