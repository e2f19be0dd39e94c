"""Base of the continuous-kernel convolutions in one and two dimensions."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from mmkerv.errors import ArgumentError
from mmkerv.ops.ckconv.kernel_net import KernelNet
from mmkerv.ops.ckconv.magnet import MagnetNet
from mmkerv.ops.ckconv.mask import gaussian_mask
from mmkerv.ops.ckconv.options import CKOptions
from mmkerv.ops.ckconv.sampling_grid import centred_positions, resolution, taps
from mmkerv.ops.core import arguments
from mmkerv.ops.core.convolve import convolve_directly
from mmkerv.ops.core.fft.convolution import fft_convolution
from mmkerv.ops.core.fft.cost_model import fft_is_cheaper
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.geometry import odd, pad
from mmkerv.ops.core.limits import within
from mmkerv.ops.core.precision import full_precision, require_type
from mmkerv.ops.core.tracing import is_traced_for_any_size
from mmkerv.ops.separable.depthwise import depthwise_separable_kernel


class ContinuousKernel(GeneratedKernel):
    r"""Mixin for a convolution whose kernel is a function of position, sampled on a grid.

    :math:`y = x * K + b` with :math:`K_j = \psi(p_j) / r`, :math:`p_j` the points of a grid of resolution r.

    Example:
        >>> from mmkerv.ops import CKConv2d
        >>> issubclass(CKConv2d, ContinuousKernel)
        True
    """

    Options = CKOptions
    has_weight = False
    short_name = 'ck'
    no_decay = ('kernel_net', 'mask_params')
    lr_mult = {'mask_params': 0.1}
    causal = False
    # Whether the kernel has values between its samples.
    is_continuous = True

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the kernel net, the mask if there is one, and the 1x1 kernel if ``separable``.

        Raises:
            ValueError: if the kernel size is even, or ``method='fft'`` is combined with a stride.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> CKConv2d(4, 8, 7, separable=True).pointwise.shape
            torch.Size([8, 4, 1, 1])
        """
        options = self.options
        if not self.causal:
            odd(self.kernel_size)
        arguments.fft_stride(options.method, self.stride)
        self.resolution = (1.0,) * self.dims
        width = self.in_channels // self.groups
        channels = self.in_channels if options.separable else self.out_channels * width
        self.kernel_net = self._make_kernel_net(channels, factory)
        mask = nn.Parameter(torch.empty(self.dims, 2, **factory)) if options.mask else None
        self.register_parameter('mask_params', mask)
        pointwise = nn.Parameter(torch.empty(self.out_channels, width, *(1,) * self.dims, **factory))
        self.register_parameter('pointwise', pointwise if options.separable else None)

    def _make_kernel_net(self, channels: int, factory: dict[str, Any]) -> nn.Module:
        net = MagnetNet if self.options.net == 'magnet' else KernelNet
        return net(self.dims, channels, self.options, **factory)

    def _reset_weight_and_bias(self) -> None:
        super()._reset_weight_and_bias()
        if self.bias is not None and self.options.init == 'official':
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Initialise the kernel net, and the 1x1 kernel if there is one, so that the kernel has variance 1 / fan_in.

        With ``init='official'`` as the authors' nets start, at no particular variance.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> op = CKConv2d(4, 8, 7); op.reset_operator_parameters()
            >>> round(float(op.kernel().var(unbiased=False) * 4 * 7 * 7), 4)
            1.0
        """
        if self.pointwise is not None:
            bound = math.sqrt(3 / self.pointwise[0].numel())
            nn.init.uniform_(self.pointwise, -bound, bound)
        if self.mask_params is not None:
            # The current sample of a causal kernel is at 1.
            self.mask_params[:, 0] = float(self.causal)
            self.mask_params[:, 1] = self.options.mask_init
        self._reset_kernel_net()

    def _reset_kernel_net(self) -> None:
        self.kernel_net.reset(*self._initial_kernel())

    def _initial_kernel(self) -> tuple[Tensor, float, Tensor | None]:
        """Return the positions at which the kernel is sampled in training, its initial variance, and its mask there."""
        size = self._initial_size()
        positions = self._positions((1.0,) * self.dims, size)
        width = self.in_channels // self.groups if self.pointwise is None else 1
        if self.mask_params is None:
            return positions, 1 / (math.prod(size) * width), None
        mask = self._mask(positions)
        return positions, 1.0 if mask.is_meta else 1 / (float(mask.square().sum()) * width), mask

    def _initial_size(self) -> tuple[int, ...]:
        return self.kernel_size

    def set_resolution(self, ratio: float | tuple[float, ...]) -> None:
        r"""Sample the same continuous kernel on a finer or coarser grid from here on.

        The kernel becomes :math:`\psi(p_j) / r` at positions r times as dense, so that the sum over r times as many
        samples stays the same; the padding is scaled accordingly. The resolution is not part of the state dict.

        Args:
            ratio: samples at run time per sample in training, one number or one per axis.

        Raises:
            ValueError: if it is not > 0, or leaves no sample besides the current one.
            RuntimeError: inside ``frozen_kernels``.

        Source: CKConv, ICLR 2022: the response scales with the ratio of the sampling rates.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> op = CKConv2d(4, 8, 7, padding=3); op.set_resolution(2)
            >>> op.kernel().shape, op(torch.randn(1, 4, 20, 20)).shape
            (torch.Size([8, 4, 13, 13]), torch.Size([1, 8, 20, 20]))
        """
        self.resolution = self._checked_resolution(ratio)

    def _checked_resolution(self, ratio: Any) -> tuple[float, ...]:
        if self._frozen_kernel is not None:
            raise RuntimeError(
                'set_resolution was called inside frozen_kernels: its kernel would be stale. Leave the block first.'
            )
        return resolution(ratio, self._size(), self.causal)

    def kernel(self, scale_factor: float | tuple[float, ...] | None = None) -> Tensor:
        """Compute the dense kernel, (O, C/groups, *size), in the type of the parameters.

        It is computed at every call, in float32 at least even under autocast. The kernel of a separable layer includes
        the 1x1 kernel.

        Args:
            scale_factor: resolution; defaults to the layer's.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> CKConv2d(4, 8, (3, 5), separable=True).kernel().shape
            torch.Size([8, 4, 3, 5])
        """
        parameter, kernel = self._parameter(), self._values(self._ratio(scale_factor))
        if self.pointwise is not None:
            with full_precision(parameter.device):
                kernel = depthwise_separable_kernel(kernel, self.pointwise.to(kernel.dtype), self.groups)
        return kernel.to(parameter.dtype)

    def _forward_kernel(self) -> Tensor:
        return self._sampled(self._ratio(None))

    def _size(self) -> tuple[int, ...]:
        """Return the size of the kernel in training."""
        return self.kernel_size

    def _ratio(self, scale_factor: Any) -> tuple[float, ...]:
        size = self._size()
        return self.resolution if scale_factor is None else resolution(scale_factor, size, self.causal)

    def sampled_size(self, scale_factor: float | tuple[float, ...] | None = None) -> tuple[int, ...]:
        """Return the size of the sampled kernel.

        Args:
            scale_factor: resolution; defaults to the layer's.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> CKConv2d(4, 8, 7).sampled_size(2)
            (13, 13)
        """
        return tuple(taps(k, r, self.causal) for k, r in zip(self.kernel_size, self._ratio(scale_factor)))

    def _sampled(self, ratio: tuple[float, ...], sizes: tuple[int, ...] | None = None) -> Tensor:
        """Return the sampled kernel (O, C/groups, *size), or the depthwise one (C, 1, *size)."""
        return self._values(ratio, sizes).to(self._parameter().dtype)

    def _values(self, ratio: tuple[float, ...], sizes: tuple[int, ...] | None = None) -> Tensor:
        """Return the sampled kernel in the type in which it is computed."""
        parameter = self._parameter()
        sizes = sizes or tuple(taps(k, r, self.causal) for k, r in zip(self.kernel_size, ratio))
        with full_precision(parameter.device):
            values = self._at(self._positions(ratio, sizes), ratio)
        shape = (len(values), 1) if self.options.separable else (self.out_channels, -1)
        return values.view(*shape, *sizes)

    def _at(self, positions: Tensor, ratio: tuple[float, ...], channels: Tensor | None = None) -> Tensor:
        """Return the kernel (C, P) at positions (P, dims), mask included; of some channels only, if given."""
        values = self.kernel_net(positions, channels) * (1 / math.prod(ratio))
        return values if self.mask_params is None else values * self._mask(positions)

    def _mask(self, positions: Tensor) -> Tensor:
        """Return the mask (P,) at positions (P, dims)."""
        # A mask narrower than half a step between samples would be a single sample, at which its width has no gradient.
        steps = [2 / max(k - 1, 1) for k in self._initial_size()]
        # Not `new_tensor`, which torch.func of torch 2.1 does not know.
        factory = {'dtype': self.mask_params.dtype, 'device': self.mask_params.device}
        low = torch.tensor([[-1.0, step / 2] for step in steps], **factory)
        high = torch.tensor([[1.0, math.inf]], **factory)
        mean, width = within(self.mask_params, low, high).to(positions.dtype).unbind(1)
        return gaussian_mask(positions, mean, width, self.options.crop, self.causal)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        key = f'{prefix}mask_params'
        saved = state_dict.get(key)
        if self.mask_params is not None and isinstance(saved, Tensor) and saved.shape == self.mask_params.shape:
            # The authors' code lets widths become negative, which gives the same mask.
            mean, width = saved.unbind(1)
            state_dict[key] = torch.stack([mean, width.abs()], 1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def option_for(self, parameter: str) -> str | None:
        """Return the option that would give the layer a parameter of this name.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> CKConv2d(4, 8, 7).option_for('mask_params')
            "mask='gaussian'"
        """
        if parameter == 'mask_params' and self.mask_params is None:
            return "mask='gaussian'"
        if parameter.startswith('kernel_net.filters.') and self.options.net != 'magnet':
            return "net='magnet'"
        return super().option_for(parameter)

    def _positions(self, ratio: tuple[float, ...], sizes: tuple[int, ...]) -> Tensor:
        """Return the positions at which the kernel is sampled, (P, dims), in the type in which it is computed."""
        axes = [centred_positions(k, r, **self._computing()) for k, r in zip(self.kernel_size, ratio)]
        return torch.stack(torch.meshgrid(axes, indexing='ij'), -1).flatten(0, -2)

    def _computing(self) -> dict[str, Any]:
        parameter = self._parameter()
        return {
            'dtype': torch.float64 if parameter.dtype == torch.float64 else torch.float32,
            'device': parameter.device,
        }

    def _parameter(self) -> Tensor:
        return self.kernel_net.layers[-1].stored

    def _padding_at(self, ratio: tuple[float, ...]) -> str | tuple[int, ...]:
        """Return the padding that keeps the edges of the kernel where they are at resolution 1."""
        if isinstance(self.padding, str) or all(r == 1 for r in ratio):
            return self.padding
        result = []
        for padding, size, dilation, r in zip(
            _ntuple(self.dims)(self.padding), self.kernel_size, _ntuple(self.dims)(self.dilation), ratio
        ):
            outside = math.floor(r * (padding - dilation * (size // 2)))
            result.append(max(0, outside + dilation * (taps(size, r) // 2)))
        return tuple(result)

    def _apply_kernel(self, x: Tensor, kernel: Tensor, ratio: tuple[float, ...]) -> Tensor:
        """Convolve with the sampled kernel, and with the 1x1 kernel if there is one."""
        if x.dim() == self.dims + 1:
            return self._apply_kernel(x[None], kernel, ratio)[0]
        # Fourier transforms would take any type.
        require_type(x, kernel, type(self).__name__)
        x, padding = self._padded(x, kernel, ratio)
        if self.pointwise is None:
            return self._convolve_by(x, kernel, self.bias, padding, self.groups)
        y = self._convolve_by(x, kernel, None, padding, self.in_channels)
        return convolve_directly(y, self.pointwise, self.bias, groups=self.groups)

    def _padded(self, x: Tensor, kernel: Tensor, ratio: tuple[float, ...]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return the input, padded unless with zeros, and the zeros that the convolution must add before and after."""
        size = tuple(kernel.shape[2:])
        x, padding = pad(x, size, self._padding_at(ratio), self.dilation, self.padding_mode)
        return x, [(p, p) for p in padding]

    def _convolve_by(self, x: Tensor, kernel: Tensor, bias: Tensor | None, padding: list, groups: int) -> Tensor:
        """Convolve with Fourier transforms or directly, depending on ``method``."""
        dims = self.dims
        stride, dilation = _ntuple(dims)(self.stride), _ntuple(dims)(self.dilation)
        method = self.options.method
        arguments.fft_stride(method, stride)
        # MKL's transforms reject an empty batch, and a graph for any size would keep the transform lengths of this one.
        if not is_traced_for_any_size() and x.numel():
            by_fft = method == 'fft'
            if method == 'auto':
                gradients = torch.is_grad_enabled() and (x.requires_grad or kernel.requires_grad)
                by_fft = fft_is_cheaper(x.shape, kernel.shape, stride, padding, dilation, groups, gradients)
            if by_fft:
                return fft_convolution(x, kernel, bias, padding, dilation, groups)
        if any(before != after for before, after in padding):
            x = F.pad(x, [side for axis in reversed(padding) for side in axis])
            padding = [(0, 0)] * dims
        return convolve_directly(x, kernel, bias, stride, [p for p, _ in padding], dilation, groups)

    def _folded(self, dense: bool) -> nn.Module:
        padding = self._padding_at(self.resolution)
        if self.pointwise is None or dense:
            return self._plain(self.kernel(), self.bias, padding=padding)
        depthwise = self._plain(self._forward_kernel(), None, padding=padding, groups=self.in_channels)
        geometry = {'stride': 1, 'padding': 0, 'dilation': 1, 'padding_mode': 'zeros'}
        return nn.Sequential(depthwise, self._plain(self.pointwise, self.bias, **geometry)).train(self.training)

    def extra_repr(self) -> str:
        """Return the arguments as torch's convolutions print them, and the options that differ from their defaults.

        Example:
            >>> from mmkerv.ops import CKConv2d
            >>> CKConv2d(3, 8, 7, separable=True).extra_repr()
            '3, 8, kernel_size=(7, 7), stride=(1, 1), separable=True'
        """
        resolution = f', resolution={self.resolution}' if any(r != 1 for r in self.resolution) else ''
        return super().extra_repr() + resolution


def set_resolution(model: nn.Module, ratio: float | tuple[float, ...]) -> list[str]:
    """Sample every continuous kernel of a trained network at another resolution.

    All layers are checked before the first is changed.

    Args:
        model: any module; it may be an operator itself, or contain operators at any depth.
        ratio: samples (pixels) at run time per sample in training, one number or one per axis.

    Returns:
        The names of the layers whose resolution was set.

    Raises:
        ValueError: if the model has no continuous kernel, or the ratio is invalid for one of them.

    Source: CKConv, ICLR 2022.

    Example:
        >>> from mmkerv.ops import CKConv2d
        >>> set_resolution(nn.Sequential(CKConv2d(3, 8, 7, padding=3), nn.ReLU()), 0.5)
        ['0']
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, ContinuousKernel)}
    if not layers:
        raise ArgumentError(
            'set_resolution found no CKConv in the model: only continuous kernels can be sampled again; a '
            'folded network has none'
        )
    for name, layer in layers.items():
        try:
            layer._checked_resolution(ratio)
        except (ValueError, RuntimeError) as error:
            raise type(error)(f'{name}: {error}' if name else str(error)) from error
    for layer in layers.values():
        layer.set_resolution(ratio)
    return list(layers)
