r"""Conditionally parameterised convolution: each image mixes its kernel from several learned ones.

Yang et al., "CondConv: Conditionally Parameterized Convolutions for Efficient Inference", NeurIPS 2019. With gates for
channels, filters and taps: Li et al., "Omni-Dimensional Dynamic Convolution", ICLR 2022.
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
from mmkerv.ops.core.gates import FEWEST_FEATURES, GATE_NORMS, Gate, Squeeze
from mmkerv.ops.core.geometry import grouped
from mmkerv.ops.core.precision import wide_type
from mmkerv.ops.core.tracing import fx_leaf

ROUTINGS = ('sigmoid', 'softmax', 'given')
# The name that the TensorFlow code gives to the experts' kernels and biases.
TENSORFLOW = {'condconv_kernel': 'weight', 'condconv_bias': 'bias'}


class CondConvOptions(NamedTuple):
    """Arguments of :class:`CondConv2d` beyond those of torch's convolutions.

    Example:
        >>> CondConvOptions(experts=8).checked().routing
        'sigmoid'
    """

    experts: int = 4
    routing: str = 'sigmoid'
    kernel: bool = True
    channel: bool = False
    filter: bool = False
    spatial: bool = False
    reduction: float | None = None
    temperature: float = 1.0
    gate_norm: str = 'ln'
    export_form: str = 'unfold'
    recompute: bool = False

    def checked(self) -> 'CondConvOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> CondConvOptions(kernel=False).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: kernel, channel, filter and spatial are all False, which leaves a plain \
convolution; switch one of them on, or leave out the conv_cfg
        """
        arguments.integer(self.experts, 'experts', 1)
        arguments.one_of(self.routing, 'routing', ROUTINGS)
        for name in ('kernel', 'channel', 'filter', 'spatial'):
            arguments.boolean(getattr(self, name), name)
        if self.reduction is not None:
            arguments.real(self.reduction, 'reduction', 0, above=True)
        arguments.real(self.temperature, 'temperature', 0, above=True)
        arguments.one_of(self.gate_norm, 'gate_norm', GATE_NORMS)
        arguments.one_of(self.export_form, 'export_form', EXPORT_FORMS)
        arguments.boolean(self.recompute, 'recompute')
        if not (self.kernel or self.channel or self.filter or self.spatial):
            raise ArgumentError(
                'kernel, channel, filter and spatial are all False, which leaves a plain convolution; switch one of '
                'them on, or leave out the conv_cfg'
            )
        for name in ('experts', 'routing'):
            if not self.kernel and getattr(self, name) != self._field_defaults[name]:
                raise ArgumentError(
                    f'{name} is for kernel=True, got {name}={getattr(self, name)!r} with kernel=False; leave {name} out'
                )
        routes = self.kernel and self.routing != 'given'
        if not (routes or self.channel or self.filter or self.spatial):
            for name in ('reduction', 'temperature'):
                if getattr(self, name) != self._field_defaults[name]:
                    raise ArgumentError(
                        f'{name} is for gates that the layer computes, got {name}={getattr(self, name)!r} with '
                        f"routing='given' and no other gate; leave {name} out"
                    )
        if self.reduction is None and self.gate_norm != self._field_defaults['gate_norm']:
            raise ArgumentError(
                f'gate_norm is the norm of the reduced features, got gate_norm={self.gate_norm!r} without reduction; '
                'set reduction (ODConv has 1/16), or leave gate_norm out'
            )
        return self


class CondConvGates(NamedTuple):
    """What the kernels of images are made from; ``None`` where the layer does not have the gate.

    Args:
        routing: r - r0, (N, experts).
        channels: c, (N, C).
        filters: f, (N, O).
        taps: s, (N, kH * kW).

    Example:
        >>> CondConv2d(16, 32, 3, filter=True).gates(torch.randn(2, 16, 5, 5)).filters.shape
        torch.Size([2, 32])
    """

    routing: Tensor | None
    channels: Tensor | None
    filters: Tensor | None
    taps: Tensor | None


class CondConv2d(DynamicKernel, Conv2d):
    r"""Conditionally parameterised convolution: a kernel for each sample, mixed from experts.

    :math:`y = K(x) * x + b(x)` with :math:`K(x) = c f s\,(W + \sum_e (r_e - r_0) W_e)` and
    :math:`b(x) = b + \sum_e (r_e - r_0) b_e`

    x (N, C, H, W), y (N, O, H', W'), W and each of the experts :math:`W_e` (O, C/groups, kH, kW). The routing is
    :math:`r = \sigma(R h / T)` or softmax(R h / T) over the experts, with :math:`r_0` = 1/2 or 1/experts, and h the
    channel means of x. The gates c (C), f (O) and s (kH, kW) are :math:`2\sigma(\cdot)` of a linear layer on h. These
    layers and R start at 0, so that the layer starts as the plain convolution with its ``weight``. With
    :math:`W = r_0 \sum_e W_e` it is :math:`\sum_e r_e W_e`, the papers' form, which any of theirs can be converted to.
    It never folds.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``.
        experts: number of experts, >= 1.
        routing: ``'sigmoid'``, as CondConv has it; ``'softmax'``, as omni-dimensional dynamic convolution has it;
            ``'given'``: the layer has no R, and ``forward`` needs the routing, relative to :math:`r_0` = 1/2.
        kernel: whether there are experts.
        channel: whether there is a gate for each input channel.
        filter: whether there is a gate for each output channel.
        spatial: whether there is a gate for each tap; kernels of one tap have none.
        reduction: ``None``, or a number: h is then relu(norm(A z)) of the channel means z, with max(int(C *
            reduction), 16) features. All four gates with ``routing='softmax', reduction=1/16`` are omni-dimensional
            dynamic convolution.
        temperature: T, > 0.
        gate_norm: norm of h with ``reduction``: ``'ln'``, or ``'bn'``, which makes a sample's output depend on the
            others in training and needs at least two of them.
        export_form: how a graph for any batch size, as in ONNX, computes the layer: ``'unfold'``, a product of the
            kernels with the unfolded patches; ``'mixture'``, a weighted sum of one convolution for ``weight`` and one
            for each expert, with ``spatial`` gates for each tap of them.
        recompute: compute the kernels again in backward instead of saving them: less memory, slower.

    Attributes:
        experts: (experts, O * C/groups * kH * kW), each row a kernel as ``weight.flatten()`` has it.
        expert_bias: (experts, O), or ``None`` without bias.

    ``load_state_dict`` also reads the kernels and biases of timm's ``CondConv2d``, ``weight`` (experts, O * C/groups *
    kH * kW) and ``bias`` (experts, O), and those of TensorFlow's EfficientNet, ``condconv_kernel`` (experts, kH * kW *
    C/groups * O). There a network computes the routing once for each block.

    Raises:
        ValueError: if a value is invalid.
        TypeError: if an argument is unknown or has the wrong type.

    Source: CondConv, NeurIPS 2019, section 3; Omni-Dimensional Dynamic Convolution, ICLR 2022, section 3.2.

    Example:
        >>> conv, x = CondConv2d(16, 32, 3, padding=1), torch.randn(2, 16, 9, 9)
        >>> conv(x).shape, conv.kernel(x).shape
        (torch.Size([2, 32, 9, 9]), torch.Size([2, 32, 16, 3, 3]))
        >>> bool(torch.allclose(conv(x), torch.conv2d(x, conv.weight, conv.bias, padding=1), atol=1e-5))
        True
    """

    Options = CondConvOptions
    short_name = 'condconv'
    takes_1x1 = True

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the experts, the routing and the gates.

        Example:
            >>> list(CondConv2d(16, 32, 1, bias=False).own_parameters())
            ['experts', 'route.weight', 'route.bias']
        """
        options, taps, width = self.options, math.prod(self.kernel_size), self.in_channels
        self.squeeze = self.route = None
        routes = options.kernel and options.routing != 'given'
        # Kernels of one tap have no spatial gate, and features without a gate would be parameters without a gradient.
        has_gates = routes or options.channel or options.filter or (options.spatial and taps > 1)
        if options.reduction is not None and has_gates:
            width = max(int(self.in_channels * options.reduction), FEWEST_FEATURES)
            self.squeeze = Squeeze(self.in_channels, width, options.gate_norm, **factory)
        experts = options.experts if options.kernel else 0
        shape = (experts, self.weight.numel())
        self.register_parameter('experts', nn.Parameter(torch.empty(shape, **factory)) if experts else None)
        biased = experts and self.bias is not None
        shape = (experts, self.out_channels)
        self.register_parameter('expert_bias', nn.Parameter(torch.empty(shape, **factory)) if biased else None)
        if routes:
            self.route = Gate(width, experts, **factory)
        self.channel_gate = Gate(width, self.in_channels, **factory) if options.channel else None
        self.filter_gate = Gate(width, self.out_channels, **factory) if options.filter else None
        self.spatial_gate = Gate(width, taps, **factory) if options.spatial and taps > 1 else None

    def reset_operator_parameters(self) -> None:
        """Draw each expert like a kernel of its own, and set the routing to :math:`r_0` and every gate to 1.

        Example:
            >>> conv = CondConv2d(16, 32, 3); conv.reset_operator_parameters()
            >>> float(conv.route.weight.abs().sum())
            0.0
        """
        bound = 1 / math.sqrt(self.weight[0].numel())
        for parameter in (self.experts, self.expert_bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)
        for part in (self.squeeze, self.route, self.channel_gate, self.filter_gate, self.spatial_gate):
            if part is not None:
                part.reset_parameters()

    @property
    def starts_as_identity(self) -> bool:
        """``True`` unless the routing is given.

        Example:
            >>> CondConv2d(4, 8, 3).starts_as_identity
            True
        """
        return self.options.routing != 'given'

    @fx_leaf
    def forward(self, input: Tensor, routing: Tensor | None = None) -> Tensor:
        """Convolve each sample of ``input`` (N, C, H, W), or a single sample (C, H, W), with its own kernel.

        Args:
            input: images.
            routing: r, (N, experts), instead of that which the layer computes.

        Raises:
            ValueError: if there is no routing, it has another shape, or the layer has no experts.

        Example:
            >>> conv = CondConv2d(16, 32, 3, routing='given')
            >>> conv(torch.randn(2, 16, 5, 5), torch.rand(2, 4)).shape
            torch.Size([2, 32, 3, 3])
        """
        return self._respond(input, routing)

    def _gates(self, x: Tensor, routing: Tensor | None = None) -> CondConvGates:
        t = self.options.temperature
        h = x.to(wide_type(self.weight.dtype)).mean((2, 3))
        if self.squeeze is not None:
            h = self.squeeze(h)
        if self.experts is None and routing is not None:
            raise ArgumentError('routing is for layers with experts, and this one has kernel=False; leave it out')
        gates = (self.channel_gate, self.filter_gate, self.spatial_gate)
        return CondConvGates(
            None if self.experts is None else self._routing(h, routing),
            *(None if gate is None else gate(h, t) for gate in gates),
        )

    def _sources(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.experts

    def _kernel(
        self,
        weight: Tensor,
        experts: Tensor | None,
        routing: Tensor | None,
        channels: Tensor | None,
        filters: Tensor | None,
        taps: Tensor | None,
    ) -> Tensor:
        dtype = wide_type(weight.dtype)
        kernels = weight.to(dtype)[None]
        if routing is not None:
            kernels = kernels + (routing @ experts.to(dtype)).view(-1, *weight.shape)
        if channels is not None:
            rows = grouped(channels, 1, self.groups).unsqueeze(2).expand(-1, -1, self.out_channels // self.groups, -1)
            kernels = kernels * rows.flatten(1, 2)[..., None, None]
        if filters is not None:
            kernels = kernels * filters[..., None, None, None]
        if taps is not None:
            kernels = kernels * taps.view(-1, 1, 1, *self.kernel_size)
        return kernels.to(weight.dtype)

    def _biases(self, routing: Tensor | None, *others: Tensor | None) -> Tensor | None:
        if routing is None:
            return None
        dtype = routing.dtype
        return (self.bias.to(dtype) + routing @ self.expert_bias.to(dtype)).to(self.bias.dtype)

    def _mixture(
        self, routing: Tensor | None, channels: Tensor | None, filters: Tensor | None, taps: Tensor | None
    ) -> Mixture:
        experts = None if routing is None else self.experts.view(-1, *self.weight.shape)
        return Mixture(experts, routing, channels, filters, taps)

    def _has_gates(self) -> bool:
        return any(gate is not None for gate in (self.channel_gate, self.filter_gate, self.spatial_gate))

    def _is_per_sample(self) -> bool:
        return self.experts is not None or self._has_gates()

    def _makes_large_tensors(self) -> bool:
        # The experts of images without gates are only added up.
        return self._has_gates()

    @property
    def routing_at_start(self) -> float:
        """r0, the routing at which a layer is the convolution with its ``weight``.

        Example:
            >>> CondConv2d(4, 8, 3, experts=5, routing='softmax').routing_at_start
            0.2
        """
        return 1 / self.options.experts if self.options.routing == 'softmax' else 0.5

    def _routing(self, h: Tensor, given: Tensor | None) -> Tensor:
        """Return the routing minus its value at the start, (N, experts)."""
        options, start = self.options, self.routing_at_start
        if given is not None:
            if given.shape != (h.shape[0], options.experts):
                raise ArgumentError(
                    f'routing must have shape (N, experts) = {(h.shape[0], options.experts)}, got {tuple(given.shape)}'
                )
            return given.to(h.dtype) - start
        if self.route is None:
            raise ArgumentError(
                "routing='given' leaves the routing to the network: call forward(input, routing), or build the layer "
                "with routing='sigmoid'"
            )
        logits = F.linear(h, self.route.weight.to(h.dtype), self.route.bias.to(h.dtype)) / options.temperature
        # 1 + tanh(t / 2) is twice the sigmoid of t.
        return logits.softmax(1) - start if options.routing == 'softmax' else torch.tanh(logits / 2) / 2

    def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace sums of experts, in timm's layout or TensorFlow's, by ours, in place.

        Example:
            >>> state = {'weight': torch.ones(4, 54), 'bias': torch.ones(4, 3)}
            >>> CondConv2d(2, 3, 3).read_published(state, ''); state['weight'].shape, state['experts'].shape
            (torch.Size([3, 2, 3, 3]), torch.Size([4, 54]))
        """
        if self.experts is None:
            return
        for name, ours in TENSORFLOW.items():
            if isinstance(state_dict.get(prefix + name), Tensor):
                state_dict[prefix + ours] = self._from_tensorflow(state_dict.pop(prefix + name))
        for name, own in (('weight', 'experts'), ('bias', 'expert_bias')):
            theirs, mine = state_dict.get(prefix + name), getattr(self, own)
            # A plain kernel has four axes, a plain bias one.
            given = mine is not None and isinstance(theirs, Tensor)
            if given and theirs.dim() == 2 and theirs.shape == mine.shape:
                state_dict[prefix + own] = theirs
                state_dict[prefix + name] = self.routing_at_start * theirs.sum(0).view(getattr(self, name).shape)

    def _from_tensorflow(self, experts: Tensor) -> Tensor:
        """Return flat kernels (experts, kH * kW * C/groups * O) with the order of axes of ``weight``."""
        outputs, width, height, across = self.weight.shape
        if experts.dim() != 2 or experts.shape[1] != self.weight.numel():
            return experts
        if self.groups == self.in_channels > 1:
            # (kH, kW, C, O / C), of which output channel c * O / C + m takes [:, :, c, m].
            return experts.view(-1, height * across, outputs).transpose(1, 2).flatten(1)
        return experts.view(-1, height, across, width, outputs).permute(0, 4, 3, 1, 2).flatten(1)


class CondConv(ConfigClass):
    """Class to name in configs: builds :class:`CondConv2d`, 1x1 included.

    Args:
        in_channels, out_channels, kernel_size, *args, **kwargs: as in :class:`CondConv2d`.

    Raises:
        ValueError: as :class:`CondConv2d`.
        TypeError: as :class:`CondConv2d`.

    Example:
        >>> type(CondConv(8, 8, 1, experts=2)).__name__
        'CondConv2d'
    """

    operator = CondConv2d
