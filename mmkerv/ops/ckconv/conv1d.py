"""CKConv1d: convolution of sequences with a continuous kernel as long as the sequence.

y_t = sum over tau of psi(tau) x_{t - tau}.
CKConv: Continuous Kernel Convolution For Sequential Data, ICLR 2022.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _single

from mmkerv.errors import ArgumentError
from mmkerv.ops.ckconv.base import ContinuousKernel
from mmkerv.ops.ckconv.irregular import irregular_convolution
from mmkerv.ops.ckconv.sampling_grid import causal_positions, taps
from mmkerv.ops.ckconv.sequence_kernels import GENERATORS, SequenceOptions
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv1d
from mmkerv.ops.core.precision import full_precision, require_type
from mmkerv.ops.core.tracing import fx_leaf, is_traced_for_any_size

# Length for which a lazy layer is initialised; its parameters are rescaled once the actual length is known.
INITIAL_LENGTH = 256


class CKConv1d(ContinuousKernel, Conv1d):
    r"""Continuous-kernel convolution of sequences, causal or centred.

    Causal: :math:`y_t = \sum_{\tau=0}^{\min(t, k - 1)} \psi(1 - 2\tau/(k-1))\, x_{t-\tau} + b`

    x (N, C, L), y (N, O, L'), kernel (O, C/groups, k), whose last sample, at position 1, is multiplied by the current
    input. The kernel is as long as the training sequences, k = ``kernel_size``. Sequences of other lengths work too: a
    shorter one uses the end of the kernel; in a longer one each output sees the last k inputs. Long kernels are applied
    with Fourier transforms, in O(L log L). The layer is equivalent to one plain convolution (after a padding layer if
    causal), which :meth:`to_conv1d` returns; on long sequences Fourier transforms are faster.

    Args:
        in_channels, out_channels, stride, dilation, groups, bias, device, dtype: as in ``nn.Conv1d``.
        kernel_size: samples of the kernel in training, usually the length of the sequences; odd if not causal.
            ``None`` makes a causal layer lazy: it takes the length of the first sequence and keeps it in its state
            dict, see :meth:`initialize_parameters`.
        padding, padding_mode: as in ``nn.Conv1d`` if not causal; a causal layer does its own padding, on the left.
        causal: make no output depend on later inputs; y is then as long as x (divided by the stride).
        hidden: width of the kernel net, >= 1.
        layers: number of linear layers of the kernel net, >= 2.
        omega_0: angular frequency of its sine layers, > 0; the paper tunes it per task (31.09 for sequential MNIST).
        activation: ``'sine'``, ``'relu'``, ``'swish'`` or ``'rff'`` (random Fourier features, then ReLU).
        separable: use a depthwise continuous kernel followed by a 1x1 convolution.
        method: ``'direct'``, ``'fft'``, or ``'auto'``, the cheaper of the two by a measured cost model. A stride needs
            ``'direct'`` or ``'auto'``. By Fourier transforms each output depends on the whole sequence, so a NaN or an
            infinite number makes the whole output of its sequence NaN; ``'direct'`` spoils only the outputs whose
            window holds it.
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
        crop: set the kernel to 0 outside the range that holds all values of the mask above this one; the
            paper has 0.1.
        kernel: ``'mlp'``, or one of three kernels that are parameters by lag instead of a function of the position,
            see ``mmkerv.ops.ckconv.sequence_kernels``. They take ``separable`` and ``method`` of the options above,
            have one resolution, regular samples and a given ``kernel_size``, and a weight of the current sample, as
            their papers' layers, which are depthwise (``groups=in_channels``). Not causal, each side has a kernel of
            its own.
            ``'sgconv'``: scales of doubling length and decaying size (SGConv, ICLR 2023);
            ``'multires'``: the impulse response of a tree of dilated filters (ICML 2023); causal only;
            ``'long'``: free values, squashed (ICML 2023).
        scale_size: with ``'sgconv'``, parameters of each scale, >= 1.
        decay: with ``'sgconv'``, factor between the sizes of neighbouring scales, > 0; two numbers are those of the
            first and the last channel.
        filter_size: with ``'multires'``, taps of each filter, >= 2.
        squash: with ``'long'``, what is taken off every value's magnitude, >= 0. Values start with a standard deviation
            of 0.002: a threshold of 0.01 leaves a kernel that is 0 and has no gradient.

    Attributes:
        mask_params: mean and width of the mask for each axis, (1, 2); ``None`` without a mask. FlexConv trains it
            with a tenth of the learning rate and without weight decay, as our tools do.

    Raises:
        ValueError: if a value or a combination of values is invalid.
        TypeError: if an argument is unknown or has the wrong type.

    Source: CKConv: Continuous Kernel Convolution For Sequential Data, ICLR 2022.

    Example:
        >>> conv = CKConv1d(1, 8, 784, omega_0=31.09)
        >>> conv(torch.randn(2, 1, 784)).shape, conv(torch.randn(2, 1, 101)).shape
        (torch.Size([2, 8, 784]), torch.Size([2, 8, 101]))
    """

    # Arguments besides the options, for messages.
    keywords = ('causal', *SequenceOptions._fields)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int] | None = None,
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        device: Any = None,
        dtype: Any = None,
        *,
        causal: bool = True,
        kernel: str = 'mlp',
        scale_size: int = 32,
        decay: float | tuple[float, float] = 2.0,
        filter_size: int = 2,
        squash: float = 0.001,
        **options: Any,
    ):
        # Set first: the constructor of the base class needs them to check the geometry and to make the parameters.
        self.causal = arguments.boolean(causal, 'causal')
        self.sequence = SequenceOptions(kernel, scale_size, decay, filter_size, squash).checked()
        if kernel != 'mlp':
            self._check_sequence(kernel_size)
        if kernel_size is None and not causal:
            raise ArgumentError('kernel_size=None is for causal layers; give the size of a centred kernel')
        size = INITIAL_LENGTH if kernel_size is None else kernel_size
        geometry = (size, stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        super().__init__(in_channels, out_channels, *geometry, **options)
        if kernel_size is None:
            self.kernel_size = None
            self.register_buffer('length', torch.zeros((), dtype=torch.long, device=device))

    def _check_sequence(self, kernel_size: Any) -> None:
        kernel = self.sequence.kernel
        if kernel_size is None:
            raise ArgumentError(
                f"kernel_size=None is for kernel='mlp': the parameters of kernel={kernel!r} depend on the length; "
                'give the length of the training sequences'
            )
        if kernel == 'multires' and not self.causal:
            raise ArgumentError("kernel='multires' is causal, got causal=False; leave it out, or use another kernel")

    @property
    def is_continuous(self) -> bool:
        """Whether the kernel has values between its samples.

        Example:
            >>> CKConv1d(4, 4, 50, groups=4, kernel='long').is_continuous
            False
        """
        return self.sequence.kernel == 'mlp'

    def _make_kernel_net(self, channels: int, factory: dict[str, Any]) -> nn.Module:
        if self.is_continuous:
            return super()._make_kernel_net(channels, factory)
        kernel = self.sequence.kernel
        for name, value in self._changed_options().items():
            if name not in ('separable', 'method'):
                raise ArgumentError(
                    f"{name} is an option of kernel='mlp', got {name}={value!r} with kernel={kernel!r}; leave "
                    f'{name} out'
                )
        # The samples of each side.
        size, sides = (self.kernel_size[0], 1) if self.causal else (self.kernel_size[0] // 2 + 1, 2)
        return GENERATORS[kernel](size, channels, sides, self.sequence, **factory)

    def _reset_kernel_net(self) -> None:
        if self.is_continuous:
            super()._reset_kernel_net()
        else:
            self.kernel_net.reset(1 if self.options.separable else self.in_channels // self.groups)

    def _values(self, ratio: tuple[float, ...], sizes: tuple[int, ...] | None = None) -> Tensor:
        if self.is_continuous:
            return super()._values(ratio, sizes)
        (size,) = sizes or self.kernel_size
        computing = self._computing()
        with full_precision(computing['device']):
            if self.causal:
                values = self.kernel_net(size, computing['dtype']).flip(-1)
            else:
                past, future = self.kernel_net(size // 2 + 1, computing['dtype']).chunk(2)
                values = torch.cat([past.flip(-1), future[:, :-1]], -1)
        # The sizes as numbers: the legacy ONNX exporter must know the shape of a kernel.
        channels = (self.in_channels, 1)
        if not self.options.separable:
            channels = (self.out_channels, self.in_channels // self.groups)
        return values.reshape(*channels, size)

    def _parameter(self) -> Tensor:
        return super()._parameter() if self.is_continuous else next(self.kernel_net.parameters())

    def _ratio(self, scale_factor: Any) -> tuple[float, ...]:
        return self._checked_ratio(super()._ratio(scale_factor))

    def _checked_resolution(self, ratio: Any) -> tuple[float, ...]:
        return self._checked_ratio(super()._checked_resolution(ratio))

    def _checked_ratio(self, ratio: tuple[float, ...]) -> tuple[float, ...]:
        if ratio != (1.0,) and not self.is_continuous:
            raise ArgumentError(
                f'kernel={self.sequence.kernel!r} has one resolution, since its samples are parameters, got '
                f"{ratio[0]:g}; use kernel='mlp' for others"
            )
        return ratio

    def extra_repr(self) -> str:
        """Return the arguments as torch's convolutions print them, and the options that differ from their defaults.

        Example:
            >>> CKConv1d(4, 4, 50, groups=4, kernel='long').extra_repr()
            "4, 4, kernel_size=(50,), stride=(1,), groups=4, kernel='long'"
        """
        defaults, own = SequenceOptions(), self.sequence._asdict().items()
        return ', '.join([super().extra_repr(), *(f'{k}={v!r}' for k, v in own if v != getattr(defaults, k))])

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the kernel net, and the 1x1 kernel if ``separable``.

        Raises:
            ValueError: if a causal layer is given padding, a centred kernel has an even size, or ``method='fft'`` is
                combined with a stride.

        Example:
            >>> CKConv1d(4, 8, 50, separable=True).pointwise.shape
            torch.Size([8, 4, 1])
        """
        if self.causal and (self.padding not in ((0,), 'valid') or self.padding_mode != 'zeros'):
            raise ArgumentError(
                f'a causal layer pads with zeros on the left by itself, got padding={self.padding!r}, '
                f'padding_mode={self.padding_mode!r}; leave them out, or pass causal=False'
            )
        super().make_parameters(factory)
        # The length of a lazy layer, 0 until it is known; a layer with a given kernel_size does not need it.
        self.register_buffer('length', None)
        # Whether the parameters are already scaled for their final length.
        self._scaled = False

    def reset_parameters(self) -> None:
        """Initialise all parameters; a lazy layer that already has its length keeps it.

        Example:
            >>> CKConv1d(4, 4, 9).reset_parameters()
        """
        size = self.kernel_size
        self.kernel_size = self._initial_size()
        super().reset_parameters()
        self.kernel_size = size
        self._scaled = False
        if self.length is not None:
            self.length.fill_(size[0] if size else 0)

    def _initial_size(self) -> tuple[int, ...]:
        return self.kernel_size or (INITIAL_LENGTH,)

    @torch.no_grad()
    def initialize_parameters(self, length: int) -> None:
        """Set the kernel length of a lazy layer, one with ``kernel_size=None``.

        The parameters get the scale they would have had with ``kernel_size=length``, unless they were loaded. Called by
        the first forward, as in torch's lazy modules. Unlike there, all parameters exist from the beginning, since
        their shapes do not depend on the length, so optimizers, weight averaging and distributed training can be set
        up before.

        Args:
            length: length of the training sequences, >= 1. A loaded length takes precedence.

        Example:
            >>> op = CKConv1d(4, 8); op.initialize_parameters(50)
            >>> op.kernel_size, op.kernel().shape
            ((50,), torch.Size([8, 4, 50]))
        """
        loaded = int(self.length)
        self.kernel_size = (loaded or length,)
        if loaded:
            return
        self.length.fill_(length)
        if self._scaled:
            return
        self.kernel_net.rescale(*self._initial_kernel())
        if self.bias is not None:
            self.bias.mul_((INITIAL_LENGTH / length) ** 0.5)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.length is None:
            return
        if f'{prefix}length' in state_dict:
            length = int(state_dict[f'{prefix}length'])
            self.kernel_size = (length,) if length else None
        elif any(key.startswith(f'{prefix}kernel_net.') for key in state_dict):
            # Saved from a layer with a given kernel_size, whose parameters have their final scale.
            self._scaled = True

    def _size(self) -> tuple[int, ...]:
        if self.kernel_size is None:
            raise RuntimeError(
                'this CKConv1d has kernel_size=None and has seen no sequence, so its kernel has no length yet; run it '
                'once, load a checkpoint, or pass kernel_size'
            )
        return self.kernel_size

    @fx_leaf
    def forward(self, input: Tensor, times: Tensor | None = None, scale_factor: float | None = None) -> Tensor:
        r"""Convolve ``input`` (N, C, L) with the sampled kernel; returns (N, O, L').

        With ``times`` the samples may be irregular:
        :math:`y_i = \sum_{j \le i} \psi(1 - 2 (t_i - t_j)/(k-1))\, x_j + b` over samples at most k - 1 back, at a cost
        of O(L^2) evaluations of the kernel net.

        Args:
            input: sequences.
            times: times of the samples, in sampling steps of the training (0, 1, 2, ... for a regular sequence),
                strictly increasing; (L,), or (N, L) if they differ between sequences. Causal layers only.
            scale_factor: resolution for this call, see :meth:`set_resolution`; defaults to the layer's. With ``times``
                it only divides the response, to compensate for the higher sampling rate.

        Raises:
            ValueError: for ``times`` that do not increase or do not fit, a resolution that leaves no sample, or a
                sequence shorter than the kernel of a strided layer.
            RuntimeError: in training inside ``frozen_kernels`` with gradients enabled.

        Example:
            >>> op, x = CKConv1d(2, 4, 50), torch.randn(1, 2, 50)
            >>> kept = torch.tensor([0.0, 1.0, 4.0, 20.0, 49.0])
            >>> op(x[..., kept.long()], times=kept).shape
            torch.Size([1, 4, 5])
        """
        x = input
        if x.dim() != 3:
            raise ArgumentError(f'input must be (N, C, L), got {tuple(x.shape)}')
        if self.kernel_size is None and times is None:
            self.initialize_parameters(max(x.shape[-1], 1))
        (ratio,) = self._ratio(scale_factor)
        if times is not None:
            return self._irregular(x, times, ratio)
        length, (dilation,), (stride,) = x.shape[-1], _single(self.dilation), _single(self.stride)
        size = taps(self.kernel_size[0], ratio, self.causal)
        if stride > 1 and length + 2 * self._sides(ratio) < dilation * (size - 1) + 1:
            raise ArgumentError(
                f'x must be at least as long as the kernel of a strided layer reaches, {dilation * (size - 1) + 1} '
                f'samples, got {length}; use stride=1, or a smaller kernel_size'
            )
        if not self.causal:
            kernel = self._current_kernel() if (ratio,) == self.resolution else self._sampled((ratio,))
            return self._apply_kernel(x, kernel, (ratio,))
        # In a sequence shorter than the kernel no output uses all of it. A graph for any length cannot cut parameters.
        if self.is_continuous or not is_traced_for_any_size():
            size = min(size, max(length - 1, 0) // dilation + 1)
        if self._frozen_kernel is not None and (ratio,) == self.resolution:
            kernel = self._current_kernel()[..., -size:]
        else:
            kernel = self._sampled((ratio,), (size,))
        return self._apply_kernel(x, kernel, (ratio,))

    def _folded(self, dense: bool) -> nn.Module:
        folded = super()._folded(dense)
        if not self.causal:
            return folded
        reach = _single(self.dilation)[0] * (taps(self.kernel_size[0], self.resolution[0], True) - 1)
        parts = list(folded) if isinstance(folded, nn.Sequential) else [folded]
        return nn.Sequential(nn.ConstantPad1d((reach, 0), 0.0), *parts).train(self.training)

    @property
    def _has_kernel(self) -> bool:
        return self.kernel_size is not None

    def _positions(self, ratio: tuple[float, ...], sizes: tuple[int, ...]) -> Tensor:
        if not self.causal:
            return super()._positions(ratio, sizes)
        computing = self._computing()
        lags = torch.arange(sizes[0] - 1, -1, -1, dtype=torch.float64, device=computing['device']) / ratio[0]
        return causal_positions(lags, self.kernel_size[0]).to(**computing)[:, None]

    def _padded(self, x: Tensor, kernel: Tensor, ratio: tuple[float, ...]) -> tuple[Tensor, list[tuple[int, int]]]:
        if not self.causal:
            return super()._padded(x, kernel, ratio)
        return x, [(_single(self.dilation)[0] * (kernel.shape[-1] - 1), 0)]

    def _sides(self, ratio: float) -> int:
        padding = self._padding_at((ratio,))
        return 0 if isinstance(padding, str) else _single(padding)[0]

    def _irregular(self, x: Tensor, times: Tensor, ratio: float) -> Tensor:
        if not self.causal:
            raise ArgumentError('times needs a causal layer; pass causal=True when the layer is built')
        if not self.is_continuous:
            raise ArgumentError(
                f'times needs a kernel with values between its samples, got kernel={self.sequence.kernel!r}; use '
                "kernel='mlp'"
            )
        for name, value in (('stride', self.stride), ('dilation', self.dilation)):
            if _single(value) != (1,):
                raise ArgumentError(f'times needs {name} 1, got {value}; irregular samples have no {name}')
        require_type(x, self._parameter(), type(self).__name__)
        size, width = self.kernel_size[0], 1 if self.options.separable else self.in_channels // self.groups
        groups = self.in_channels if self.options.separable else self.groups

        def values(lags: Tensor) -> Tensor:
            return self._at(causal_positions(lags, size)[:, None], (ratio,))

        y = irregular_convolution(
            x, times, values, size - 1, width, groups, self._computing()['dtype'], self.options.hidden
        )
        if self.pointwise is not None:
            return F.conv1d(y, self.pointwise.to(y.dtype), self.bias, groups=self.groups)
        return y if self.bias is None else y + self.bias[:, None].to(y.dtype)
