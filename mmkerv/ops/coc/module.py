"""CoCConv2d: convolution with kernels that collaborate spatially.

y = conv2d(x, K(W), b), K = untile(norm(s * tile(W)) + tile(W)).
Convolution of Convolution: Let Kernels Spatially Collaborate, CVPR 2022, sections 3.1 and 3.2.
"""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.coc.functional import (
    LAYER_NORM_EPS,
    num_associations,
    spatial_association,
    super_weight_shape,
    tap_selector,
    uses_matrix,
)
from mmkerv.ops.coc.options import OFFICIAL, CoCOptions
from mmkerv.ops.coc.super_kernel import super_kernel
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import PlainFor1x1
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.precision import wide_type
from mmkerv.ops.core.recompute import convolve_and_forget
from mmkerv.ops.core.tracing import fx_leaf, needs_plain_operations


class SuperLayer(nn.Module):
    """Parameters of one super convolution, without a forward.

    ``weight`` has the shape that :func:`mmkerv.ops.coc.functional.super_weight_shape` returns; ``bias`` has one number
    per super kernel or is ``None``; with ``norm_shape`` there are the scale ``norm_weight`` and the shift ``norm_bias``
    of a layer norm.

    Upstream initialisers match neither its name nor its base class.

    Example:
        >>> SuperLayer((16, 1, 3, 3), bias=True).bias.shape
        torch.Size([16])
    """

    def __init__(
        self, shape: tuple, bias: bool, norm_shape: tuple | None = None, device: Any = None, dtype: Any = None
    ):
        super().__init__()

        def parameter(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(size, device=device, dtype=dtype))

        self.weight = parameter(*shape)
        self.register_parameter('bias', parameter(shape[0]) if bias else None)
        self.register_parameter('norm_weight', parameter(*norm_shape) if norm_shape else None)
        self.register_parameter('norm_bias', parameter(*norm_shape) if norm_shape else None)

    @torch.no_grad()
    def reset(self, options: CoCOptions) -> None:
        """Initialise to the identity, or with the uniform Kaiming weights of ``nn.Conv2d`` and zero bias.

        Example:
            >>> layer = SuperLayer((4, 1, 3, 3), bias=True)
            >>> layer.reset(CoCOptions()); float(layer.weight.abs().sum())
            0.0
        """
        identity = options.start == 'identity'
        if identity and self.norm_weight is None:
            nn.init.zeros_(self.weight)
            if not options.skip:
                # `dirac_` sets a centred delta on the diagonal; shared super kernels have one input each.
                nn.init.dirac_(self.weight, groups=1 if options.share is None else self.weight.shape[0])
        else:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.norm_weight is not None:
            nn.init.constant_(self.norm_weight, 0.0 if identity else 1.0)
            nn.init.zeros_(self.norm_bias)

    def extra_repr(self) -> str:
        """Return the shape of the super kernels, and whether they have a bias and a norm.

        Example:
            >>> SuperLayer((4, 1, 3, 3), bias=True)
            SuperLayer(4, 1, 3, 3, bias=True)
        """
        norm = '' if self.norm_weight is None else ', norm=True'
        return f'{", ".join(map(str, self.weight.shape))}, bias={self.bias is not None}{norm}'


class CoCConv2d(GeneratedKernel, Conv2d):
    r"""Convolution of convolution: ``conv2d`` with spatially associated kernels.

    :math:`y = \mathrm{conv2d}(x, K, b)` with
    :math:`K = \mathrm{untile}(\mathrm{norm}(s * \mathrm{tile}(W)) + \mathrm{tile}(W))`

    x (N, C, H, W), y (N, O, H', W'), W and K (O, C/groups, kH, kW). Each group of ``association**2`` filters is
    laid out as one tile and convolved with super kernels s, so its filters are learned together; the layer is
    equivalent to one plain convolution, which :meth:`to_conv2d` returns.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``. The kernel sizes must be odd.
        association: filters along each side of a tile (``sa`` in the paper), >= 1.
        kernel_plus: how far a super kernel reaches beyond a basic one (``skp``), even, >= 0;
            see :func:`mmkerv.ops.coc.super_kernel.super_kernel`.
        num_layers: super convolutions in a row (``sl``), >= 1.
        skip: add each super layer's input to its output.
        dilate: ``True`` for the authors' dilated super kernels, ``'paper'`` for dilated ones that reach at most
            ``kernel_size + kernel_plus``, ``False`` for undilated ones.
        share: what a super kernel is shared by: ``'ci'`` the input channels (as in the paper), ``'co'`` the association
            groups, ``'cico'`` both; with ``None`` the super convolution mixes the input channels.
        super_init: ``'identity'`` starts with K = W; ``'kaiming'`` is the paper's initialisation; ``'auto'`` is
            ``'identity'`` where possible, else ``'kaiming'``.
        super_norm: ``'ln'`` for a layer norm of the super convolution's result (share ``'ci'`` only), or ``None``.
        super_standardize: standardise the super kernels to mean 0 and standard deviation 1.
        standardize: normalisation of the resulting kernel: ``True`` standardises each filter, ``'ln'`` is a layer norm
            with a learned scale and shift (C/groups, kH, kW), ``False`` leaves it as it is.
        super_bias: give super layers a bias. It shifts all taps of a tile at once: with SGD it may keep a network from
            learning, and it can lower an orthogonality loss without making kernels orthogonal. The authors' settings
            have none.
        recompute: compute the kernel again in backward instead of saving it, which takes less memory but computes it
            three times per step.
        preset: ``'standard'`` or ``'light'`` for the authors' published settings of ``super_norm``,
            ``super_standardize`` and ``standardize`` (for ResNet and HRNet, and for ShuffleNetV2 and MobileNetV3);
            options given beside it override it.

    Raises:
        ValueError: if a value or a combination of values is invalid, for example an even ``kernel_size``.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Convolution of Convolution, CVPR 2022, equation 1, Figures 2 and 6.

    Example:
        >>> conv = CoCConv2d(16, 32, 3, padding=1)
        >>> print(conv.extra_repr())
        16, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), super_init='identity'
        >>> conv(torch.randn(2, 16, 7, 7)).shape
        torch.Size([2, 32, 7, 7])
    """

    Options = CoCOptions
    short_name = 'coc'
    no_decay = ('super_layers',)
    norm_parameters = ('kernel_norm_weight', 'kernel_norm_bias')
    # Kept between calls. Not a buffer: after construction on the meta device nothing would fill it with its values.
    _selector: Tensor | None = None
    _not_copied = (*GeneratedKernel._not_copied, '_selector')

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the super layers, and the norm of the result if there is one.

        Raises:
            ValueError: if the kernel size is even, or a standardisation would have only one element.

        Example:
            >>> len(CoCConv2d(4, 8, 3, num_layers=2).super_layers)
            2
        """
        options = self.options
        association, kernel = options.association, self.kernel_size
        self.super_kernel = tuple(super_kernel(k, options.kernel_plus, options.dilate) for k in kernel)
        shape = super_weight_shape(self.weight.shape, self._super_size, options.share, self.groups, association)
        for option, size in (('super_standardize', shape[1:]), ('standardize', self.weight.shape[1:])):
            if getattr(options, option) is True and math.prod(size) == 1:
                raise ArgumentError(
                    f'{option}=True needs kernels of more than one element, got kernel_size={kernel} with '
                    f'{self.weight.shape[1]} input channels a group; leave {option} off for this layer'
                )
        norm_shape = None
        if options.super_norm:
            associations = num_associations(self.out_channels, self.groups, association)
            norm_shape = (associations, association * kernel[0], association * kernel[1])
        self.super_layers = nn.ModuleList(
            SuperLayer(shape, options.super_bias, norm_shape, **factory) for _ in range(options.num_layers)
        )
        affine = options.standardize == 'ln'
        for name in ('kernel_norm_weight', 'kernel_norm_bias'):
            self.register_parameter(
                name, nn.Parameter(torch.empty(self.weight.shape[1:], **factory)) if affine else None
            )

    @classmethod
    def checked_options(cls, options: dict[str, Any], named: type | None = None) -> CoCOptions:
        """Return the options, those of the preset included; see the base class.

        Example:
            >>> CoCConv2d.checked_options(dict(preset='light', standardize=False))[7:11]
            ('ln', False, False, False)
        """
        preset = options.get('preset')
        # An unknown one is refused with the other options.
        settings = OFFICIAL[preset] if preset in tuple(OFFICIAL) else {}
        return super().checked_options({**settings, **options}, named)

    @classmethod
    def official(cls, preset: str, *args: Any, **kwargs: Any) -> 'CoCConv2d':
        """Build the layer with the authors' published settings, as the argument ``preset`` does.

        Args:
            preset: ``'standard'`` (ResNet, HRNet) or ``'light'`` (ShuffleNetV2, MobileNetV3).
            *args: as :class:`CoCConv2d`.
            **kwargs: as :class:`CoCConv2d`; they override the preset.

        Raises:
            ValueError: for an unknown preset.

        Example:
            >>> CoCConv2d.official('light', 8, 8, 3, groups=8).options.super_norm
            'ln'
        """
        arguments.one_of(preset, 'preset', tuple(OFFICIAL))
        return cls(*args, preset=preset, **kwargs)

    def reset_operator_parameters(self) -> None:
        """Initialise the super layers and the final norm, if any; leave ``weight`` and ``bias`` as they are.

        Example:
            >>> CoCConv2d(4, 4, 3).reset_operator_parameters()
        """
        for layer in self.super_layers:
            layer.reset(self.options)
        if self.kernel_norm_weight is not None:
            nn.init.ones_(self.kernel_norm_weight)
            nn.init.zeros_(self.kernel_norm_bias)

    def option_for(self, parameter: str) -> str | None:
        """Return ``'super_bias=True'`` for the bias of a super layer; see the base class.

        Example:
            >>> CoCConv2d(4, 8, 3).option_for('super_layers.0.bias')
            'super_bias=True'
        """
        is_super_bias = re.fullmatch(r'super_layers\.\d+\.bias', parameter)
        return 'super_bias=True' if is_super_bias and not self.options.super_bias else None

    @property
    def starts_as_identity(self) -> bool:
        """``True`` if the super layers are initialised such that the kernel equals ``weight``.

        Example:
            >>> CoCConv2d(4, 8, 3).starts_as_identity, CoCConv2d(4, 8, 3, standardize='ln').starts_as_identity
            (True, False)
        """
        return self.options.start == 'identity'

    @property
    def _super_size(self) -> tuple[int, int]:
        return tuple(s.size for s in self.super_kernel)

    @property
    def _super_dilation(self) -> tuple[int, int]:
        return tuple(s.dilation for s in self.super_kernel)

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, H, W) with the associated kernel; returns (N, O, H', W').

        Raises:
            RuntimeError: in training inside ``frozen_kernels`` with gradients enabled, since parameters would get none.

        Example:
            >>> CoCConv2d(3, 8, 3, padding=1, recompute=True)(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 5, 5])
        """
        # Inside torch.compile the partitioner decides what to save.
        keeps = not self.options.recompute or self._frozen_kernel is not None or needs_plain_operations()
        if keeps or not torch.is_grad_enabled():
            return self._convolve(input, self._current_kernel())
        return convolve_and_forget(input, self.kernel, self._convolve, self.parameters)

    def _kernel(self) -> Tensor:
        options, layers = self.options, self.super_layers
        dtype = wide_type(self.weight.dtype)
        super_weights = [layer.weight.to(dtype) for layer in layers]
        if options.super_standardize:
            super_weights = [standardized(w) for w in super_weights]
        kernel = spatial_association(
            self.weight.to(dtype),
            super_weights,
            [layer.bias.to(dtype) for layer in layers] if options.super_bias else None,
            association=options.association,
            super_dilation=self._super_dilation,
            groups=self.groups,
            share=options.share,
            skip=options.skip,
            norms=[(n.norm_weight.to(dtype), n.norm_bias.to(dtype)) for n in layers] if options.super_norm else None,
            selector=self._current_selector(),
        )
        if options.standardize == 'ln':
            affine = (self.kernel_norm_weight.to(dtype), self.kernel_norm_bias.to(dtype))
            return F.layer_norm(kernel, kernel.shape[1:], *affine, eps=LAYER_NORM_EPS)
        return standardized(kernel) if options.standardize else kernel

    def _current_selector(self) -> Tensor | None:
        """Return the matrix that expands super kernels, or ``None`` if there is none yet, or the layer uses none."""
        device, selector = self.weight.device, self._selector
        if selector is not None and selector.device == device:
            return selector
        # While a graph is recorded, the matrix is computed as a part of it.
        if needs_plain_operations() or not uses_matrix(self.weight.shape, self.options.association, self.options.share):
            return None
        # A tensor made in inference mode could not be used by autograd later.
        with torch.inference_mode(False):
            geometry = (self.options.association, self.kernel_size, self._super_size, self._super_dilation)
            selector = tap_selector(*geometry, device=device)
        # FakeTensorMode makes tensors without values.
        if type(selector) is Tensor:
            self._selector = selector
        return selector

    def _changed_options(self) -> dict[str, Any]:
        # Show the actual initialisation of the super layers, even if it follows from another option.
        return {**super()._changed_options(), 'super_init': self.options.start}


def standardized(weight: Tensor) -> Tensor:
    r"""Standardise each filter: :math:`(w - \mathrm{mean}(w)) / (\mathrm{std}(w) + 10^{-5})`, std unbiased.

    Weight standardisation as mmcv's ``conv_ws_2d`` computes it.

    Args:
        weight: (O, I, kH, kW), at least two elements per filter.

    Example:
        >>> standardized(torch.tensor([[[[1.0, 3.0]]]])).flatten()
        tensor([-0.7071,  0.7071])
    """
    std, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True)
    return (weight - mean) / (std + 1e-5)


class CoCConv(PlainFor1x1):
    """Class to name in configs: builds :class:`CoCConv2d`, or a plain ``nn.Conv2d`` for a 1x1 kernel.

    The paper finds that replacing 1x1 convolutions is harmful (section 4.1), so they stay plain unless
    ``replace_1x1=True``.
    The operator's arguments are checked in both cases.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as :class:`CoCConv2d`.
        replace_1x1: also associate 1x1 kernels.

    Raises:
        ValueError: as :class:`CoCConv2d`.
        TypeError: as :class:`CoCConv2d`.

    Example:
        >>> type(CoCConv(8, 8, 1)).__name__, type(CoCConv(8, 8, 3)).__name__
        ('Conv2d', 'CoCConv2d')
    """

    operator = CoCConv2d
