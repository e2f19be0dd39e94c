"""CKConv2d: convolution by a continuous kernel, a small network of the position, in two dimensions.

y = conv2d(x, K, b), K[o, i, j] = psi(p_j)[o, i].
CKConv: Continuous Kernel Convolution For Sequential Data, ICLR 2022; two dimensions as FlexConv, ICLR 2022.
"""

from typing import Any

from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.ckconv.base import ContinuousKernel, odd
from mmkerv.ops.ckconv.options import CKOptions
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import CONV2D_KEYWORDS, Conv2d


class CKConv2d(ContinuousKernel, Conv2d):
    r"""Continuous-kernel convolution: ``conv2d`` by a kernel that a small network computes from the position.

    :math:`y = \mathrm{conv2d}(x, K, b)` with :math:`K_{oi}(p) = \psi(p)_{oi}`, p on a grid over [-1, 1] x [-1, 1]

    x (N, C, H, W), y (N, O, H', W'), K (O, C/groups, kH, kW). The number of parameters does not depend on the kernel's
    size, and the same kernel can be sampled at another resolution (:meth:`set_resolution`). There is no basic kernel:
    ``weight`` is ``None``. The result is one plain convolution, which :meth:`to_conv2d` returns.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as ``nn.Conv2d`` has them. The kernel sizes must be odd; up to the size of the feature map makes sense.
        hidden: width of the kernel net, >= 1.
        layers: its linear layers, >= 2.
        omega_0: angular frequency of its sine layers, > 0. Higher gives rougher kernels; beyond about
            ``pi * (k - 1) / 2`` neighbouring samples are unrelated, and another resolution means nothing.
        activation: ``'sine'``, ``'relu'``, ``'swish'`` or ``'rff'`` (random Fourier features, then ReLU).
        separable: a depthwise continuous kernel followed by a 1x1 convolution: the form for wide layers, where a dense
            kernel net would have ``hidden * O * C`` weights.
        method: ``'direct'``, ``'fft'``, or ``'auto'``: what is cheaper by a measured cost model. Strides are direct.

    Raises:
        ValueError: if a value or a combination breaks its rule, for example an even ``kernel_size``.
        TypeError: if an argument is unknown or has the wrong type.

    Source: CKConv, ICLR 2022; the start with variance 1 / fan_in is that of FlexConv, ICLR 2022.

    Example:
        >>> import torch
        >>> conv = CKConv2d(16, 32, 7, padding=3)
        >>> print(conv.extra_repr())
        16, 32, kernel_size=(7, 7), stride=(1, 1), padding=(3, 3)
        >>> conv(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        *,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ):
        arguments.reject_unknown('CKConv2d', set(options) - set(CKOptions._fields), CKOptions._fields)
        options = CKOptions(**options).checked()
        odd(arguments.integers(kernel_size, 2, 'kernel_size', 1))
        factory = {'device': device, 'dtype': dtype}
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, **factory
        )
        arguments.fft_stride(options.method, self.stride)
        self._start(options, **factory)

    def forward(self, x: Tensor, scale_factor: float | tuple[float, float] | None = None) -> Tensor:
        """Convolve ``x`` (N, C, H, W) with the sampled kernel; returns (N, O, H', W').

        Args:
            x: input.
            scale_factor: resolution for this call, see :meth:`set_resolution`; by default the layer's.

        Raises:
            ValueError: for a resolution that leaves the kernel no sample.
            RuntimeError: in training with gradients inside ``frozen_kernels``.

        Example:
            >>> import torch
            >>> op, image = CKConv2d(3, 8, 7, padding=3), torch.randn(1, 3, 32, 32)
            >>> op(image).shape, op(image[..., ::2, ::2], scale_factor=0.5).shape
            (torch.Size([1, 8, 32, 32]), torch.Size([1, 8, 16, 16]))
        """
        ratio = self._ratio(scale_factor)
        kernel = self._current_kernel() if ratio == self.resolution else self._sampled(ratio)
        return self._apply_kernel(x, kernel, ratio)

    def to_conv2d(self, dense: bool = False) -> nn.Conv2d | nn.Sequential:
        """Return the plain module that computes the same at the layer's resolution, with parameters of its own.

        Args:
            dense: one ``nn.Conv2d`` also for a separable layer, which is else a depthwise and a 1x1 one.

        Example:
            >>> import torch
            >>> op, x = CKConv2d(4, 8, 3, separable=True), torch.randn(1, 4, 5, 5)
            >>> [conv.kernel_size for conv in op.to_conv2d()], op.to_conv2d(dense=True).kernel_size
            ([(3, 3), (1, 1)], (3, 3))
        """
        return self._folded(dense)


class CKConv:
    """What a config builds: :class:`CKConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    A 1x1 kernel has nothing to be continuous over, so it stays plain unless ``replace_1x1=True``. The operator's
    arguments are checked in both cases.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as :class:`CKConv2d`.
        kernel_extent: kernel size instead of the host's, odd, one integer or two; the padding becomes the host's
            padding + dilation * (extent - kernel_size) // 2, so that the output has the size it had.
        replace_1x1: also replace 1x1 kernels.

    Raises:
        ValueError: as :class:`CKConv2d`, and where ``kernel_extent`` has no such padding.
        TypeError: as :class:`CKConv2d`.

    Example:
        >>> conv = CKConv(8, 8, 3, stride=2, padding=1, kernel_extent=7)
        >>> type(conv).__name__, conv.kernel_size, conv.padding, conv.stride
        ('CKConv2d', (7, 7), (3, 3), (2, 2))
        >>> type(CKConv(8, 8, 1, kernel_extent=7)).__name__
        'Conv2d'
    """

    def __new__(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        *args: Any,
        kernel_extent: Any = None,
        replace_1x1: bool = False,
        **kwargs: Any,
    ):
        """Build the layer."""
        arguments.boolean(replace_1x1, 'replace_1x1')
        options = {k: kwargs[k] for k in CKOptions._fields if k in kwargs}
        plain = {k: v for k, v in kwargs.items() if k not in options}
        known = ('kernel_extent', 'replace_1x1', *CKOptions._fields)
        arguments.reject_unknown('CKConv', [k for k in plain if k not in CONV2D_KEYWORDS], known)
        CKOptions(**options).checked()
        if kernel_extent is not None:
            odd(arguments.integers(kernel_extent, 2, 'kernel_extent', 1), 'kernel_extent')
        if arguments.integers(kernel_size, 2, 'kernel_size', 1) == (1, 1) and not replace_1x1:
            return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, *args, **plain)
        if kernel_extent is not None:
            padding = extended_padding(kernel_size, kernel_extent, padding, dilation)
            kernel_size = kernel_extent
        return CKConv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, *args, **kwargs)

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any] | None:
        """Return the ``conv_cfg`` of the folded layer, ``None`` for a plain convolution of the same shape.

        Args:
            conv_cfg: the config that the layer was built with.

        Example:
            >>> CKConv.deploy_cfg(dict(type='CKConv', kernel_extent=7, hidden=16))
            {'type': 'mmkerv.FoldedConv', 'kernel_extent': 7}
        """
        shape = {key: conv_cfg[key] for key in ('kernel_extent', 'separable', 'replace_1x1') if conv_cfg.get(key)}
        return dict(type='mmkerv.FoldedConv', **shape) if shape else None


def extended_padding(kernel_size: Any, extent: Any, padding: Any, dilation: Any) -> str | tuple[int, int]:
    """Padding with which a kernel of another extent gives an output of the same size.

    Args:
        kernel_size: the host's.
        extent: the kernel's, one integer or two.
        padding: the host's.
        dilation: the host's.

    Raises:
        ValueError: if there is none: the sizes differ by an odd number, or the padding would be negative.

    Example:
        >>> extended_padding(3, (7, 1), 1, 1)
        (3, 0)
    """
    if padding == 'same':
        return padding
    sizes, extents, dilations = (
        arguments.integers(value, 2, name, 1)
        for value, name in ((kernel_size, 'kernel_size'), (extent, 'kernel_extent'), (dilation, 'dilation'))
    )
    paddings = (0, 0) if padding == 'valid' else arguments.padding_argument(padding, 2, (1, 1))
    result = []
    for size, wanted, before, step in zip(sizes, extents, paddings, dilations):
        grown = before + step * (wanted - size) // 2
        if step * (wanted - size) % 2 or grown < 0:
            raise ArgumentError(
                f'kernel_extent={extent} has no padding that keeps the output of kernel_size={kernel_size}, '
                f'padding={padding}, dilation={dilation} as large as it is; '
                + ('kernels of even size have none' if (wanted - size) % 2 else 'use a larger kernel_extent')
                + ': leave this layer out (where)'
            )
        result.append(grown)
    return tuple(result)
