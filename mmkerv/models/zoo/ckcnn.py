"""CKCNN: residual blocks of continuous-kernel convolutions, for classifying sequences."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops import CKConv1d
from mmkerv.ops.ckconv import PERIODIC
from mmkerv.ops.core.arguments import integer, one_of, real
from mmkerv.registry import MODELS

NORMS = ('gn1', 'ln')
SMNIST_OMEGA_0 = 31.09


class StepNorm(nn.LayerNorm):
    r"""Layer norm over the channels of each time step: (N, C, L) -> (N, C, L).

    Example:
        >>> import torch
        >>> StepNorm(8)(torch.randn(2, 8, 5)).shape
        torch.Size([2, 8, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, C, L), normalised."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class CKBlock(BaseModule):
    r"""Residual block of two continuous-kernel convolutions.

    :math:`h = \mathrm{drop}(\mathrm{ReLU}(N(c_1 * x)))`, :math:`y = \mathrm{ReLU}(\mathrm{drop}(\mathrm{ReLU}(N(c_2 *
    h))) + S(x))`, where S is the identity, or a 1x1 convolution if the widths differ.

    Args:
        in_channels: of x (N, C, L).
        channels: of y (N, channels, L).
        dropout: rate, in [0, 1).
        norm: ``'gn1'`` or ``'ln'``, see :class:`CKCNN`.
        init_cfg: as in every mmengine module.
        **convolution: arguments of :class:`mmkerv.ops.CKConv1d`.

    Source: CKConv, ICLR 2022; the network that the authors published.

    Example:
        >>> import torch
        >>> CKBlock(1, 8, 0.1, 'gn1', kernel_size=50)(torch.randn(2, 1, 50)).shape
        torch.Size([2, 8, 50])
    """

    def __init__(self, in_channels: int, channels: int, dropout: float, norm: str, init_cfg=None, **convolution):
        super().__init__(init_cfg)
        make = StepNorm if norm == 'ln' else lambda channels: nn.GroupNorm(1, channels)
        self.conv1 = CKConv1d(in_channels, channels, **convolution)
        self.norm1 = make(channels)
        self.conv2 = CKConv1d(channels, channels, **convolution)
        self.norm2 = make(channels)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv1d(in_channels, channels, 1)

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """Return y (N, channels, L) for x (N, C, L), sampled at ``times`` (see :class:`mmkerv.ops.CKConv1d`)."""
        # A folded layer has no argument for the times.
        irregular = () if times is None else (times,)
        h = self.dropout(F.relu(self.norm1(self.conv1(x, *irregular))))
        h = self.dropout(F.relu(self.norm2(self.conv2(h, *irregular))))
        return F.relu(h + self.shortcut(x))


@MODELS.register_module()
class CKCNN(BaseModule):
    r"""Backbone of continuous-kernel convolutions for sequences, such as images read pixel by pixel.

    The feature (N, channels) is the last time step of the last :class:`CKBlock`, for
    ``LinearClsHead(num_classes=10, in_channels=channels)``.

    The convolutions are causal, but the network is not with ``norm='gn1'``: that norm, the authors' choice, takes mean
    and variance over channels and time, so that every step depends on the whole sequence. ``norm='ln'`` normalises each
    step separately and keeps the network causal.

    Args:
        in_channels: channels of a time step, >= 1.
        channels: width, >= 1; the paper uses 30 (about 0.1 M parameters) and 100 (about 1 M).
        num_blocks: number of blocks, >= 1; the paper uses 2.
        hidden: width of the kernel nets.
        omega_0: angular frequency of their sine layers, which the paper tunes; by default 31.09, the paper's value for
            sequential MNIST. Other activations and kernels have none.
        dropout: rate after each convolution, in [0, 1).
        dropout_in: rate on the input, in [0, 1).
        norm: ``'gn1'`` (group norm of one group) or ``'ln'`` (layer norm of each step).
        kernel_size: length of the kernels, that of the training sequences; ``None`` takes it from the first sequence.
        init_cfg: as in every mmengine module.
        **convolution: further arguments of :class:`mmkerv.ops.CKConv1d`, such as ``activation`` or ``method``.

    Raises:
        ValueError: for another norm, a rate outside [0, 1), or what :class:`mmkerv.ops.CKConv1d` refuses.

    Source: CKConv: Continuous Kernel Convolution For Sequential Data, ICLR 2022; this form
        reproduces the logits of the authors' checkpoint.

    Example:
        >>> import torch
        >>> CKCNN(in_channels=1, channels=30, omega_0=31.09)(torch.randn(2, 1, 60))[0].shape
        torch.Size([2, 30])
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 30,
        num_blocks: int = 2,
        hidden: int = 32,
        omega_0: float | None = None,
        dropout: float = 0.1,
        dropout_in: float = 0.1,
        norm: str = 'gn1',
        kernel_size: int | None = None,
        init_cfg: dict | None = None,
        **convolution,
    ):
        super().__init__(init_cfg)
        one_of(norm, 'norm', NORMS)
        for name, rate in (('dropout', dropout), ('dropout_in', dropout_in)):
            if real(rate, name, 0.0) >= 1:
                raise ArgumentError(f'{name} must be in [0, 1), got {rate}')
        self.dropout_in = nn.Dropout(dropout_in)
        convolution |= {'kernel_size': kernel_size, 'hidden': hidden}
        periodic = convolution.get('kernel', 'mlp') == 'mlp' and convolution.get('activation', 'sine') in PERIODIC
        if omega_0 is not None or periodic:
            convolution['omega_0'] = SMNIST_OMEGA_0 if omega_0 is None else omega_0
        self.blocks = nn.ModuleList()
        for _ in range(integer(num_blocks, 'num_blocks', 1)):
            self.blocks.append(CKBlock(in_channels, channels, dropout, norm, **convolution))
            in_channels = channels

    def forward(self, x: Tensor, times: Tensor | None = None) -> tuple[Tensor]:
        """Return the feature (N, channels), in a tuple as mmpretrain's backbones do.

        Args:
            x: (N, C, L), or (N, C, 1, L) as ``mmkerv.ToSequence`` returns it.
            times: times of the samples, if they are irregular, see :class:`mmkerv.ops.CKConv1d`.

        Raises:
            ValueError: for an input of more than one row.

        Example:
            >>> import torch
            >>> CKCNN(in_channels=3, channels=8)(torch.randn(1, 3, 1, 40))[0].shape
            torch.Size([1, 8])
        """
        if x.dim() == 4 and x.shape[2] == 1:
            x = x[:, :, 0]
        if x.dim() != 3:
            raise ArgumentError(
                f'CKCNN takes sequences (N, C, L) or (N, C, 1, L), got {tuple(x.shape)}; add dict(type='
                "'mmkerv.ToSequence') to the pipelines"
            )
        x = self.dropout_in(x)
        for block in self.blocks:
            x = block(x, times)
        return (x[..., -1],)
