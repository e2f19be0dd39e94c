"""Lightweight convolution of sequences: depthwise, with softmax-normalised kernels shared by the channels of a head.

Pay Less Attention with Lightweight and Dynamic Convolutions, ICLR 2019.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv1d
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.precision import full_precision, wide_type
from mmkerv.ops.core.tracing import fx_leaf

LAYOUTS = ('blocks', 'interleaved')


class LightweightOptions(NamedTuple):
    """Arguments of :class:`LightweightConv1d` beyond those of ``nn.Conv1d``.

    Example:
        >>> LightweightOptions(heads=4).checked().layout
        'blocks'
    """

    heads: int = 1
    layout: str = 'blocks'
    weight_dropout: float = 0.0

    def checked(self) -> 'LightweightOptions':
        """Return the options if each value is valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> LightweightOptions(heads=0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: heads must be >= 1, got 0
        """
        arguments.integer(self.heads, 'heads', 1)
        arguments.one_of(self.layout, 'layout', LAYOUTS)
        if not arguments.real(self.weight_dropout, 'weight_dropout', 0.0) < 1:
            raise ArgumentError(f'weight_dropout must be a probability below 1, got {self.weight_dropout}')
        return self


class LightweightConv1d(GeneratedKernel, Conv1d):
    r"""Lightweight convolution: depthwise, each kernel a softmax over its taps, one kernel for all channels of a head.

    :math:`y_{c,t} = \sum_j \mathrm{softmax}(W_{h(c)})_j\, x_{c,\,t+j} + b_c`

    x (N, C, L), y (N, C, L'), W (heads, 1, k). The taps of a kernel are positive and add up to 1, so away from the
    padding a constant input comes out as it is. The layer is equivalent to one plain depthwise convolution, which
    :meth:`to_conv1d` returns.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv1d``. The layer is depthwise: ``in_channels == out_channels == groups``.
        heads: number of kernels; divides the channels.
        layout: ``'blocks'``: head of channel c is ``c // (C / heads)``, as in fairseq's ``LightweightConv1dTBC``, which
            its models use; ``'interleaved'``: ``c % heads``, as in its ``LightweightConv1d``.
        weight_dropout: probability with which a tap of a head's kernel is dropped in training; the rest is scaled up.

    Attributes:
        head_weight: W. Checkpoints of fairseq's layers, which call it ``weight``, load as they are, unless every
            channel has a head of its own: then it could be the weight of a plain convolution.

    Raises:
        ValueError: if a value is invalid, the layer is not depthwise, or ``heads`` does not divide the channels.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Pay Less Attention with Lightweight and Dynamic Convolutions, ICLR 2019, section 3.

    Example:
        >>> conv = LightweightConv1d(8, 8, 5, padding=2, groups=8, heads=2)
        >>> conv(torch.randn(2, 8, 20)).shape, conv.kernel().shape, round(float(conv.kernel().detach().sum()), 3)
        (torch.Size([2, 8, 20]), torch.Size([8, 1, 5]), 8.0)
    """

    Options = LightweightOptions
    has_weight = False
    short_name = 'lightweight'

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create the kernels of the heads.

        Raises:
            ValueError: if the layer is not depthwise, or ``heads`` does not divide the channels.

        Example:
            >>> list(LightweightConv1d(8, 8, 5, groups=8, heads=2).own_parameters())
            ['head_weight']
        """
        if not self.in_channels == self.out_channels == self.groups:
            raise ArgumentError(
                'LightweightConv1d needs in_channels == out_channels == groups (a depthwise convolution), got '
                f'{self.in_channels}, {self.out_channels} and {self.groups}; use groups=in_channels'
            )
        heads = self.options.heads
        if self.in_channels % heads:
            raise ArgumentError(f'heads must divide the channels, got heads={heads} for {self.in_channels} channels')
        self.head_weight = nn.Parameter(torch.empty(heads, 1, *self.kernel_size, **factory))

    @torch.no_grad()
    def reset_operator_parameters(self) -> None:
        """Draw the kernels; the bias starts at 0, as published.

        Example:
            >>> LightweightConv1d(8, 8, 5, groups=8).reset_operator_parameters()
        """
        nn.init.xavier_uniform_(self.head_weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _kernel(self) -> Tensor:
        return self._of_channels(self._normalised())

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, L); in training with ``weight_dropout``, which a frozen kernel does without.

        Example:
            >>> LightweightConv1d(8, 8, 5, groups=8, padding=2)(torch.randn(2, 8, 9)).shape
            torch.Size([2, 8, 9])
        """
        rate = self.options.weight_dropout if self.training else 0.0
        if not rate or self._frozen_kernel is not None:
            return super().forward(input)
        with full_precision(self.head_weight.device):
            kernel = self._of_channels(F.dropout(self._normalised(), rate))
        return self._convolve(input, kernel.to(self.head_weight.dtype))

    def _normalised(self) -> Tensor:
        return self.head_weight.to(wide_type(self.head_weight.dtype)).softmax(-1)

    def _of_channels(self, kernels: Tensor) -> Tensor:
        """Return the kernel of each channel (C, 1, k) from those of the heads (heads, 1, k)."""
        heads, channels, size = len(kernels), self.in_channels // self.options.heads, kernels.shape[-1]
        # Not `repeat_interleave`, which ONNX has from opset 13 on.
        if self.options.layout == 'blocks':
            kernels = kernels.unsqueeze(1).expand(heads, channels, 1, size)
        else:
            kernels = kernels.unsqueeze(0).expand(channels, heads, 1, size)
        return kernels.reshape(heads * channels, 1, size)

    def _parameter(self) -> Tensor:
        return self.head_weight

    def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Rename the weight that fairseq saved, in place.

        Example:
            >>> state = {'weight': torch.ones(2, 1, 5)}
            >>> LightweightConv1d(4, 4, 5, groups=4, heads=2).read_published(state, ''); list(state)
            ['head_weight']
        """
        published = state_dict.get(f'{prefix}weight')
        # With a head for each channel it could be the kernel of a plain depthwise convolution, which is no logarithm.
        several = self.options.heads < self.in_channels
        if several and isinstance(published, Tensor) and published.shape == self.head_weight.shape:
            state_dict[f'{prefix}head_weight'] = state_dict.pop(f'{prefix}weight')
