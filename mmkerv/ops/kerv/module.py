"""KervConv1d, 2d, 3d: kervolution, convolution with a kernel function in place of the inner product.

y_i = kernel(x_i, w) + b. Kervolutional Neural Networks, CVPR 2019.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError, FoldError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv1d, Conv2d, Conv3d
from mmkerv.ops.core.tracing import is_recording
from mmkerv.ops.kerv.functional import CHUNK_MIB, LINEAR, POLYNOMIAL, kervolve
from mmkerv.ops.kerv.registry import ABOVE_ZERO, DEFAULTS, MINIMUM, checked_hyperparameters, find_kernel


class Kervolution:
    """Mixin of the three layers: hyperparameters, forward, folding; see :class:`KervConv2d`.

    Example:
        >>> issubclass(KervConv3d, Kervolution)
        True
    """

    no_decay = ('balance', 'gamma')
    # Set by KervolutionGuardHook: keep the largest |s| of a forward pass in `largest_product`.
    watched = False
    largest_product: Tensor | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        *,
        kernel: str = POLYNOMIAL,
        degree: int = DEFAULTS['degree'],
        balance: float = DEFAULTS['balance'],
        gamma: float | str = DEFAULTS['gamma'],
        learnable: bool = False,
        per_channel: bool = False,
        chunk_mib: float = CHUNK_MIB,
        device: Any = None,
        dtype: Any = None,
        **hyperparameters: Any,
    ):
        rule = find_kernel(kernel)
        arguments.boolean(learnable, 'learnable')
        arguments.boolean(per_channel, 'per_channel')
        if learnable and not rule.learnable:
            raise ArgumentError(
                f'learnable=True needs a kernel with a real hyperparameter, got kernel={kernel!r}, which has none; '
                'leave learnable out, or take polynomial or gaussian'
            )
        if per_channel and not learnable:
            raise ArgumentError('per_channel=True needs learnable=True: one learned value for each filter')
        factory = {'device': device, 'dtype': dtype}
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, **factory
        )
        self.kernel_name = kernel
        self.learnable = learnable
        self.per_channel = per_channel
        self.chunk_mib = arguments.real(chunk_mib, 'chunk_mib', 0, above=True)
        given = {'degree': degree, 'balance': balance, 'gamma': gamma, **hyperparameters}
        self._auto_gamma = isinstance(gamma, str)
        self._initial = checked_hyperparameters(rule, self.weight[0].numel(), given)
        rule.probe(self._initial)
        size = self.out_channels if per_channel else 1
        # Hyperparameters that the kernel does not have are None.
        for name, value in (dict.fromkeys(DEFAULTS) | self._initial).items():
            if learnable and name in rule.learnable:
                self.register_parameter(name, nn.Parameter(torch.empty(size, **factory)))
            else:
                setattr(self, name, value)
        self.reset_operator_parameters()

    def reset_operator_parameters(self) -> None:
        """Start the learned hyperparameters, and leave ``weight`` and ``bias`` as they are.

        Example:
            >>> KervConv2d(4, 4, 3, learnable=True).reset_operator_parameters()
        """
        for name in self._learned():
            nn.init.constant_(getattr(self, name), self._initial[name])

    @property
    def starts_as_identity(self) -> bool:
        """Whether the layer is the plain convolution with its ``weight`` and ``bias``: the linear kernel is.

        Example:
            >>> KervConv2d(4, 4, 3, kernel='linear').starts_as_identity, KervConv2d(4, 4, 3).starts_as_identity
            (True, False)
        """
        return self.kernel_name == LINEAR

    def _learned(self) -> list[str]:
        return [name for name in self._initial if isinstance(getattr(self, name), nn.Parameter)]

    def _values(self) -> dict[str, Any]:
        """Return the hyperparameters, the learned ones in their range."""
        values = {name: getattr(self, name) for name in self._initial}
        for name in self._learned():
            minimum, parameter = MINIMUM.get(name, ABOVE_ZERO), values[name]
            if is_recording():
                # A recorded graph must not change its parameters.
                values[name] = _straight_through_clamp(parameter, minimum)
            else:
                # Through `data`, which autograd does not see: the graph of an earlier application of the layer stays
                # valid. The values that graph has saved are in range already, so this does not change them.
                parameter.data.clamp_(min=minimum)
        return values

    def forward(self, x: Tensor) -> Tensor:
        """Kervolve ``x`` (N, C, *spatial); returns (N, O, *spatial').

        Learned hyperparameters are first projected, in place: ``balance`` to >= 0, all others to >= 1e-8. A compiled
        layer takes the projected values and leaves the parameters to the next call that is not compiled.

        Example:
            >>> KervConv2d(3, 8, 3, padding=1)(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 5, 5])
        """
        x, padding = self._pad(x)
        ints = [(a,) * self.dims if isinstance(a, int) else tuple(a) for a in (self.stride, self.dilation)]
        return kervolve(
            x,
            self.weight,
            self.bias,
            (ints[0], padding, ints[1], self.groups),
            find_kernel(self.kernel_name),
            self._values(),
            self.chunk_mib,
            self._observe if self.watched else None,
        )

    def _observe(self, s: Tensor) -> None:
        if s.numel():
            largest = s.abs().amax()
            # A layer that is applied several times keeps the largest of all.
            self.largest_product = largest if self.largest_product is None else self.largest_product.maximum(largest)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise RuntimeError(
            f"{type(self).__name__}._conv_forward was called, as mmcv's efficient_conv_bn_eval does: a kervolution is "
            'not linear in its weight, and switch_to_deploy makes it no convolution. Leave efficient_conv_bn_eval off.'
        )

    def kernel(self) -> Tensor:
        """Return the kernel of the equal plain convolution, (O, C/groups, *kernel_size), where there is one.

        Raises:
            FoldError: unless the kernel function is linear, or polynomial of degree 1.

        Example:
            >>> op = KervConv2d(3, 8, 3, kernel='linear')
            >>> bool(torch.equal(op.kernel(), op.weight))
            True
        """
        if self.kernel_name == LINEAR or (self.kernel_name == POLYNOMIAL and self.degree == 1):
            return self.weight
        raise FoldError(
            f'{type(self).__name__} with kernel={self.kernel_name!r} is not linear in its input, so no plain '
            'convolution equals it; deploy it as it is'
        )

    def _to_plain(self) -> nn.Module:
        kernel, bias = self.kernel(), self.bias
        if self.kernel_name == POLYNOMIAL:
            shift = self.weight.new_zeros(self.out_channels) + self.balance
            bias = shift if bias is None else bias + shift
        return self._plain(kernel, bias)

    def extra_repr(self) -> str:
        """Return the arguments as torch's convolution prints them, then the kernel and its hyperparameters.

        Example:
            >>> KervConv2d(3, 8, 3, kernel='gaussian', gamma=0.5).extra_repr()
            "3, 8, kernel_size=(3, 3), stride=(1, 1), kernel='gaussian', gamma=0.5"
        """
        parts = [super().extra_repr(), f'kernel={self.kernel_name!r}']
        parts += [
            f'{name}={"auto" if name == "gamma" and self._auto_gamma else value}'
            for name, value in self._initial.items()
        ]
        parts += [f'{flag}=True' for flag in ('learnable', 'per_channel') if getattr(self, flag)]
        return ', '.join(parts)


def _straight_through_clamp(parameter: Tensor, minimum: float) -> Tensor:
    """Clamp ``parameter`` at ``minimum`` in forward, with the identity as gradient (the straight-through estimator)."""
    zero_with_gradient = parameter - parameter.detach()
    return parameter.clamp(min=minimum).detach() + zero_with_gradient


class KervConv1d(Kervolution, Conv1d):
    """Kervolution of sequences (N, C, L); arguments as :class:`KervConv2d`.

    Example:
        >>> KervConv1d(3, 8, 3)(torch.randn(2, 3, 9)).shape
        torch.Size([2, 8, 7])
    """

    def to_conv1d(self) -> nn.Conv1d:
        """Return the plain convolution that computes the same, for the kernels that :class:`KervConv2d` names.

        Raises:
            FoldError: for any other kernel.

        Example:
            >>> type(KervConv1d(3, 8, 3, kernel='linear').to_conv1d()).__name__
            'Conv1d'
        """
        return self._to_plain()


class KervConv2d(Kervolution, Conv2d):
    r"""Kervolution of images: convolution with a kernel function in place of the inner product.

    :math:`y_{n,o,i} = \kappa(x_{n,i}, w_o) + b_o` for every patch :math:`x_{n,i}` of x (N, C, H, W); y (N, O, H', W').

    ==================== =========================================== ==================
    ``kernel``           :math:`\kappa(x, w)`                        hyperparameters
    ==================== =========================================== ==================
    linear               :math:`s = \langle x, w \rangle`
    polynomial           :math:`(s + balance)^{degree}`              degree, balance
    sigmoid              :math:`\tanh s`
    gaussian             :math:`\exp(-\gamma d^2)`, d = \|x - w\|    gamma
    l1, l2               :math:`\sum |x - w|`, d
    manhattan, euclidean :math:`-\sum |x - w|`, :math:`-d^2`
    laplacian            :math:`\exp(-\gamma d)`                     gamma
    cauchy               :math:`1 / (1 + \gamma d^2)`                gamma
    rational quadratic   :math:`(1 + \gamma d^2/\alpha)^{-\alpha}`   gamma, alpha
    arc-cosine           that of wide layers of order 0, 1, 2        order
    ==================== =========================================== ==================

    :func:`mmkerv.ops.register_kernel` adds more. Where d or :math:`\sum |x - w|` has no slope, 0 is taken.
    ``linear`` and ``polynomial`` of degree 1 are plain convolutions, which :meth:`to_conv2d` returns.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as ``nn.Conv2d`` has them. The bias is added after the kernel.
        kernel: a name of the table, or one that was registered.
        degree: integer >= 1.
        balance: >= 0; the larger, the less the higher orders count.
        gamma: > 0, or ``'auto'``: 1/(C/groups * kH * kW). With 1.0 (the paper's LeNet) a Gaussian response and its
            gradient are exactly 0 from about 64 channels on.
        learnable: make the kernel's real hyperparameters (balance, gamma, alpha) parameters, which hold the value
            itself; they are kept in their range. Exempt them from weight decay.
        per_channel: learn one value for each filter instead of one for the layer.
        chunk_mib: bound on what ``'l1'`` and ``'manhattan'`` hold for one chunk, MiB > 0.
        **hyperparameters: ``alpha`` > 0, ``order``, and those of registered kernels.

    Raises:
        ValueError: if a value breaks its rule, the kernel is unknown or lacks a hyperparameter that was given.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Kervolutional Neural Networks, CVPR 2019, equations 2, 9 to 11 and section 4.1.

    Example:
        >>> conv = KervConv2d(16, 32, 3, padding=1, learnable=True)
        >>> print(conv.extra_repr())
        16, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), kernel='polynomial', degree=3, balance=1.0, learnable=True
        >>> conv(torch.randn(2, 16, 7, 7)).shape
        torch.Size([2, 32, 7, 7])
    """  # noqa: E501

    def to_conv2d(self) -> nn.Conv2d:
        """Return the plain convolution that computes the same: linear, or polynomial of degree 1.

        Raises:
            FoldError: for any other kernel.

        Example:
            >>> op, x = KervConv2d(3, 8, 3, degree=1), torch.randn(1, 3, 5, 5)
            >>> bool(torch.allclose(op.to_conv2d()(x), op(x), atol=1e-6))
            True
        """
        return self._to_plain()


class KervConv3d(Kervolution, Conv3d):
    """Kervolution of volumes (N, C, D, H, W); arguments as :class:`KervConv2d`.

    Example:
        >>> KervConv3d(2, 4, 3)(torch.randn(1, 2, 4, 4, 4)).shape
        torch.Size([1, 4, 2, 2, 2])
    """

    def to_conv3d(self) -> nn.Conv3d:
        """Return the plain convolution that computes the same, for the kernels that :class:`KervConv2d` names.

        Raises:
            FoldError: for any other kernel.

        Example:
            >>> type(KervConv3d(2, 4, 3, kernel='linear').to_conv3d()).__name__
            'Conv3d'
        """
        return self._to_plain()


KervConv = KervConv2d
