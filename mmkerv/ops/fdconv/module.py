r"""Frequency dynamic convolution: each image sets the gains of the frequency bands of one kernel, and of its own.

Chen et al., "Frequency Dynamic Convolution for Dense Image Prediction", CVPR 2025.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv2d
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.ops.core.dynamic import EXPORT_FORMS, DynamicKernel, Mixture
from mmkerv.ops.core.gates import FEWEST_FEATURES, GATE_NORMS, Gate, Squeeze, layer_norm
from mmkerv.ops.core.geometry import grouped
from mmkerv.ops.core.precision import full_precision, wide_type
from mmkerv.ops.fdconv.bands import BAND_ORDERS, banded_kernels, bands_of, ranks, spectrum_size
from mmkerv.ops.fdconv.features import EDGES, modulated
from mmkerv.ops.fdconv.official import read_official

# The authors replace layers with more channels than this, and with these kernels.
NARROW, SIZES = 16, ((1, 1), (3, 3))


class FDConvOptions(NamedTuple):
    """Arguments of :class:`FDConv2d` beyond those of torch's convolutions.

    Example:
        >>> FDConvOptions(kernel_num=4).checked().gate_norm
        'ln'
    """

    kernel_num: int = 64
    reduction: float = 1 / 16
    temperature: float = 1.0
    ksm_global: bool = True
    ksm_local: bool = True
    fbm: bool = True
    gate_norm: str = 'ln'
    band_order: str = 'integer'
    export_form: str = 'unfold'
    recompute: bool = False

    def checked(self) -> 'FDConvOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> FDConvOptions(ksm_global=False, ksm_local=False, fbm=False).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: ksm_global=False, ksm_local=False and fbm=False leave a plain convolution; \
switch one of them on, or leave out the conv_cfg
        """
        arguments.integer(self.kernel_num, 'kernel_num', 1)
        arguments.real(self.reduction, 'reduction', 0, above=True)
        arguments.real(self.temperature, 'temperature', 0, above=True)
        for name in ('ksm_global', 'ksm_local', 'fbm'):
            arguments.boolean(getattr(self, name), name)
        arguments.one_of(self.gate_norm, 'gate_norm', GATE_NORMS)
        arguments.one_of(self.band_order, 'band_order', BAND_ORDERS)
        arguments.one_of(self.export_form, 'export_form', EXPORT_FORMS)
        arguments.boolean(self.recompute, 'recompute')
        if not (self.ksm_global or self.ksm_local or self.fbm):
            raise ArgumentError(
                'ksm_global=False, ksm_local=False and fbm=False leave a plain convolution; switch one of them on, or '
                'leave out the conv_cfg'
            )
        for name in ('kernel_num', 'reduction', 'temperature', 'gate_norm'):
            if not self.ksm_global and getattr(self, name) != self._field_defaults[name]:
                raise ArgumentError(
                    f'{name} belongs to ksm_global=True, got {name}={getattr(self, name)!r} with ksm_global=False; '
                    f'leave {name} out'
                )
        if self.export_form == 'mixture' and self.ksm_local:
            raise ArgumentError(
                "export_form='mixture' needs ksm_local=False: a kernel with a gate for each weight is no sum of a few "
                "fixed ones; use export_form='unfold'"
            )
        return self


class LocalGate(nn.Module):
    """Taps along the channels for each filter and each tap of it, (O kH kW, taps).

    Example:
        >>> LocalGate(8, 5).weight.shape
        torch.Size([8, 5])
    """

    def __init__(self, outputs: int, taps: int, **factory: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, taps, **factory))


class BandMaps(nn.Module):
    """Kernels 3x3 that compute the gain of each band of the feature maps at each pixel, (3, C, 3, 3).

    Example:
        >>> BandMaps(8).weight.shape
        torch.Size([3, 8, 3, 3])
    """

    def __init__(self, channels: int, **factory: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(EDGES), channels, 3, 3, **factory))
        self.bias = nn.Parameter(torch.empty(len(EDGES), **factory))


class FDConvGates(NamedTuple):
    """What the kernels of images are made from; ``None`` where the layer does not have the gate.

    Args:
        bands: a - 1, (N, bands), from the lowest frequency to the highest.
        channels: c, (N, C).
        filters: f, (N, O).
        taps: s, (N, kH * kW).
        means: channel means after the layer norm, (N, C), from which the local gates are computed.

    Example:
        >>> FDConv2d(32, 64, 3, kernel_num=4).gates(torch.randn(2, 32, 5, 5)).bands.shape
        torch.Size([2, 4])
    """

    bands: Tensor | None
    channels: Tensor | None
    filters: Tensor | None
    taps: Tensor | None
    means: Tensor | None


class FDConv2d(DynamicKernel, Conv2d):
    r"""Frequency dynamic convolution: each sample has a kernel of its own, and its feature maps gains of their bands.

    :math:`y = K(x) * \mathrm{FBM}(x) + b`, :math:`K(x) = s\,c\,f\,l\,V(x)`, :math:`V(x) = \sum_g a_g W_g`

    x (N, C, H, W), y (N, O, H', W'), W (O, C/groups, kH, kW). :math:`W_g` are disjoint frequency bands of the kernel W,
    which add up to W (``mmkerv.ops.fdconv.bands.banded_kernels``). The gates are :math:`2\sigma(\cdot)`, computed
    from the channel means z of x:

    * global, from :math:`h = \mathrm{StarReLU}(\mathrm{norm}(A z))`: a (bands), c (C), f (O), s (kH, kW);
    * local, l (O, C/groups, kH, kW): taps along the channels of LayerNorm(z), other taps for each filter and each of
      its taps;
    * FBM, a map for each of three frequency bands of x, from 3x3 kernels on x; the lowest band stays as it is. Kernels
      of a single tap have none.

    The last layer of every gate starts at 0, so that all gates are 1 and the layer starts as the plain convolution with
    its ``weight``, in training and in evaluation. Fourier transforms are computed in float32, or in float64 for float64
    parameters. It never folds.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``. Every group has a Fourier transform of its own.
        kernel_num: number of frequency bands, >= 1, of nearly equal sizes; as many as the kernel of a group has
            coefficients, (O/groups kH) * (C/groups kW // 2 + 1), if that is less.
        reduction: h has max(int(C * reduction), 16) features.
        temperature: divisor of what enters the sigmoids of the global gates, > 0.
        ksm_global: whether there are global gates.
        ksm_local: whether there are local gates.
        fbm: whether the frequency bands of the feature maps get gains.
        gate_norm: ``'ln'``, layer norm; or ``'bn'``, batch norm, as the authors have it: it makes a sample's output
            depend on the others in training, needs at least two of them, and does not normalise while ``norm_eval``
            keeps its statistics at their start.
        band_order: order of the coefficients, see ``mmkerv.ops.fdconv.bands.ranks``; ``'official'`` for the
            authors' checkpoints, with the limits of FBM's bands that they were trained with, too.
        export_form: how a graph for any batch size, as in ONNX, computes the layer: ``'unfold'``, a product of the
            kernels with the unfolded patches; ``'mixture'``, a weighted sum of ``kernel_num`` + 1 convolutions, one for
            each band, with the gates s for each tap of them. It needs ``ksm_local=False``.
        recompute: compute the kernels again in backward instead of saving them: less memory, slower.

    A state dict of the authors' code (``dft_weight``, ``KSM_Global``, ...) loads as it is into a layer with
    ``gate_norm='bn', band_order='official'`` and their ``kernel_num``. Their FBM resizes its band limits from maps of
    64x64; ours are exact at every size.

    Raises:
        ValueError: if a value is invalid.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Frequency Dynamic Convolution for Dense Image Prediction, CVPR 2025, section 3.

    Example:
        >>> conv, x = FDConv2d(32, 64, 3, padding=1), torch.randn(2, 32, 9, 9)
        >>> conv(x).shape, conv.kernel(x).shape
        (torch.Size([2, 64, 9, 9]), torch.Size([2, 64, 32, 3, 3]))
        >>> bool(torch.allclose(conv(x), torch.conv2d(x, conv.weight, conv.bias, padding=1), atol=1e-5))
        True
    """

    Options = FDConvOptions
    short_name = 'fdconv'
    takes_1x1 = True
    _not_copied = ('_ranks',)
    # Numbers of the Fourier coefficients, on the device of the parameters; not a buffer, which would need a value after
    # `to_empty`, and nothing that a checkpoint could change.
    _ranks: Tensor | None = None

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the parameters of the gates.

        Example:
            >>> list(FDConv2d(32, 32, 1, ksm_local=False).own_parameters())[-2:]
            ['band_gate.weight', 'band_gate.bias']
        """
        options, taps = self.options, math.prod(self.kernel_size)
        if options.ksm_global:
            features = max(int(self.in_channels * options.reduction), FEWEST_FEATURES)
            self.squeeze = Squeeze(self.in_channels, features, options.gate_norm, star=True, **factory)
            self.channel_gate = Gate(features, self.in_channels, **factory)
            self.filter_gate = Gate(features, self.out_channels, **factory)
            self.spatial_gate = Gate(features, taps, **factory) if taps > 1 else None
            self.band_gate = Gate(features, self._bands(), **factory)
        if options.ksm_local:
            self.local_norm = nn.LayerNorm(self.in_channels, **factory)
            self.local_gate = LocalGate(self.out_channels * taps, local_taps(self.in_channels), **factory)
        self.band_maps = BandMaps(self.in_channels, **factory) if options.fbm and taps > 1 else None
        self._find_order()

    def _bands(self) -> int:
        rows, columns = spectrum_size(self.weight.shape, self.groups)
        return min(self.options.kernel_num, rows * (columns // 2 + 1))

    def reset_operator_parameters(self) -> None:
        """Draw the features of the gates, and set every gate to 1.

        Example:
            >>> conv = FDConv2d(32, 32, 3); conv.reset_operator_parameters()
            >>> float(conv.band_gate.weight.abs().sum())
            0.0
        """
        if self.options.ksm_global:
            for part in (self.squeeze, self.channel_gate, self.filter_gate, self.spatial_gate, self.band_gate):
                if part is not None:
                    part.reset_parameters()
        if self.options.ksm_local:
            self.local_norm.reset_parameters()
            nn.init.zeros_(self.local_gate.weight)
        if self.band_maps is not None:
            nn.init.zeros_(self.band_maps.weight)
            nn.init.zeros_(self.band_maps.bias)

    @property
    def starts_as_identity(self) -> bool:
        """``True``: all gates start at 1.

        Example:
            >>> FDConv2d(32, 32, 3).starts_as_identity
            True
        """
        return True

    def _gates(self, x: Tensor) -> FDConvGates:
        options = self.options
        z = x.to(wide_type(self.weight.dtype)).mean((2, 3))
        bands = channels = filters = taps = None
        if options.ksm_global:
            h, t = self.squeeze(z), options.temperature
            bands = self.band_gate.excess(h, t)
            channels, filters = self.channel_gate(h, t), self.filter_gate(h, t)
            taps = None if self.spatial_gate is None else self.spatial_gate(h, t)
        means = layer_norm(z, self.local_norm) if options.ksm_local else None
        return FDConvGates(bands, channels, filters, taps, means)

    def _sources(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.local_gate.weight if self.options.ksm_local else None

    def _kernel(
        self,
        basic: Tensor,
        local: Tensor | None,
        bands: Tensor | None,
        channels: Tensor | None,
        filters: Tensor | None,
        taps: Tensor | None,
        means: Tensor | None,
    ) -> Tensor:
        weight = basic.to(wide_type(basic.dtype))
        kernels = weight[None]
        if bands is not None:
            self._find_order()
            kernels = banded_kernels(weight, bands, self._ranks, self.groups)
            # c[channel] as (groups, 1, C/groups) and f[filter] as (groups, O/groups, 1).
            inner, outer = grouped(channels, 1, self.groups), grouped(filters, 1, self.groups)
            gates = (outer.unsqueeze(3) * inner.unsqueeze(2)).view(-1, *weight.shape[:2], 1, 1)
            if taps is not None:
                gates = gates * taps.view(-1, 1, 1, *self.kernel_size)
            kernels = kernels * gates
        if means is not None:
            kernels = kernels * self._local(local.to(means.dtype), means)
        return kernels.to(basic.dtype)

    def _local(self, taps: Tensor, means: Tensor) -> Tensor:
        """Compute the local gates l, (N, O, C/groups, kH, kW), from their ``taps`` and ``means``."""
        count, width = local_taps(self.in_channels), self.in_channels // self.groups
        bordered = F.pad(means, (count // 2, count // 2))
        near = torch.stack([bordered[:, i : i + self.in_channels] for i in range(count)], 1)
        # (N, groups, taps, C/groups) for the channels, (groups, O/groups kH kW, taps) for the filters.
        near = near.view(-1, count, self.groups, width).transpose(1, 2)
        logits = grouped(taps, 0, self.groups) @ near
        logits = logits.reshape(-1, self.out_channels, *self.kernel_size, width).movedim(4, 2)
        return 1 + torch.tanh(logits / 2)

    def local_gates(self, means: Tensor) -> Tensor | None:
        """Compute the local gates l, (N, O, C/groups, kH, kW), from ``means`` (N, C) of the layer's :meth:`gates`.

        ``None`` where the layer has no local gates.

        Example:
            >>> conv = FDConv2d(32, 64, 3)
            >>> conv.local_gates(conv.gates(torch.randn(1, 32, 5, 5)).means).shape
            torch.Size([1, 64, 32, 3, 3])
        """
        if not self.options.ksm_local:
            return None
        with full_precision(means.device):
            return self._local(self.local_gate.weight.to(means.dtype), means)

    def _mixture(
        self,
        bands: Tensor | None,
        channels: Tensor | None,
        filters: Tensor | None,
        taps: Tensor | None,
        means: Tensor | None,
    ) -> Mixture:
        self._find_order()
        weight = self.weight.to(wide_type(self.weight.dtype))
        return Mixture(bands_of(weight, self._bands(), self._ranks, self.groups), bands, channels, filters, taps)

    def _is_per_sample(self) -> bool:
        return self.options.ksm_global or self.options.ksm_local

    def _makes_large_tensors(self) -> bool:
        return self._is_per_sample()

    def band_gains(self, x: Tensor) -> Tensor | None:
        """Compute FBM's m - 1 of ``x`` (N, C, H, W): (N, 3, H, W), from the highest frequencies to lower ones.

        ``None`` where the layer has no FBM.

        Example:
            >>> FDConv2d(32, 64, 3).band_gains(torch.randn(2, 32, 5, 5)).shape
            torch.Size([2, 3, 5, 5])
        """
        if self.band_maps is None:
            return None
        dtype = wide_type(self.weight.dtype)
        weight, bias = self.band_maps.weight.to(dtype), self.band_maps.bias.to(dtype)
        with full_precision(x.device):
            return torch.tanh(F.conv2d(x.to(dtype), weight, bias, padding=1) / 2)

    def _features(self, x: Tensor) -> Tensor:
        gains = self.band_gains(x)
        if gains is None:
            return x
        with full_precision(x.device):
            return modulated(x.to(gains.dtype), gains, self.options.band_order == 'official').to(x.dtype)

    def _find_order(self) -> None:
        """Number the Fourier coefficients, on the device of the parameters."""
        if self.options.ksm_global and (self._ranks is None or self._ranks.device != self.weight.device):
            size = spectrum_size(self.weight.shape, self.groups)
            # A tensor of the inference mode could not be used in training afterwards.
            with torch.inference_mode(False):
                self._ranks = torch.from_numpy(ranks(*size, self.options.band_order).copy()).to(self.weight.device)

    # torch.compile traces neither numpy nor the inference mode, so forward should have nothing to do here.
    def _apply(self, *args, **kwargs) -> nn.Module:
        super()._apply(*args, **kwargs)
        self._find_order()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._find_order()

    def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace the authors' layer by ours, in place.

        Raises:
            CheckpointMismatchError: if the layer's options are not those of the authors' code.

        Example:
            >>> state = {'dft_weight': torch.zeros(1, 96, 49, 2)}
            >>> FDConv2d(32, 32, 3, gate_norm='bn', band_order='official').read_published(state, ''); list(state)
            ['weight']
        """
        read_official(self, state_dict, prefix)


def local_taps(channels: int) -> int:
    """Return the number of channels that a local gate looks at: 1, from 4 on 3, from 64 on 5, from 1024 on 7.

    Example:
        >>> [local_taps(channels) for channels in (1, 32, 64, 512, 1024, 2048)]
        [1, 3, 5, 5, 7, 7]
    """
    return round(math.log2(channels) / 2 + 0.5) // 2 * 2 + 1


class FDConv(ConfigClass):
    """Class to name in configs: builds :class:`FDConv2d`, or a plain ``nn.Conv2d`` where the authors keep it.

    They replace convolutions 3x3 and 1x1 with more than 16 channels on both sides. The other layers of a backbone that
    they keep, the stem and the downsampling, are left out by ``where``.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`FDConv2d`.
        replace_all: also replace narrower layers and other kernels.

    Raises:
        ValueError: as :class:`FDConv2d`.
        TypeError: as :class:`FDConv2d`.

    Example:
        >>> [type(FDConv(*shape)).__name__ for shape in ((3, 64, 3), (64, 64, 7), (64, 64, 3), (64, 256, 1))]
        ['Conv2d', 'Conv2d', 'FDConv2d', 'FDConv2d']
    """

    operator = FDConv2d
    keywords = ('replace_all',)

    def __new__(cls, *args: Any, replace_all: bool = False, **kwargs: Any) -> nn.Module:
        """Build the layer."""
        arguments.boolean(replace_all, 'replace_all')
        return cls.operator(*args, **kwargs) if replace_all else super().__new__(cls, *args, **kwargs)

    @classmethod
    def leaves_plain(cls, in_channels: int, out_channels: int, kernel_size: tuple[int, ...], groups: int) -> bool:
        """Return ``True`` if a convolution of this shape stays plain.

        Example:
            >>> FDConv.leaves_plain(64, 16, (3, 3), 1), FDConv.leaves_plain(64, 17, (3, 3), 1)
            (True, False)
        """
        return min(in_channels, out_channels) <= NARROW or kernel_size not in SIZES
