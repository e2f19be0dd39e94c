"""Kervolution layers: convolution with a kernel function in place of the inner product.

y_i = kernel(x_i, w) + b. Kervolutional Neural Networks, CVPR 2019.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.base import Conv1d, Conv2d, Conv3d
from mmkerv.ops.core.limits import within
from mmkerv.ops.core.response import Response
from mmkerv.ops.core.tracing import fx_leaf
from mmkerv.ops.kerv.functional import CHUNK_MIB, LINEAR, POLYNOMIAL, kervolve
from mmkerv.ops.kerv.registry import ABOVE_ZERO, DEFAULTS, MINIMUM, checked_hyperparameters, find_kernel


class KervOptions(NamedTuple):
    """Arguments of the kervolution layers beyond those of torch's convolutions, see :class:`KervConv2d`.

    Hyperparameters with other names are passed as keyword arguments of the layer and kept in ``hyperparameters``.

    Example:
        >>> KervConv2d(3, 8, 3, kernel='rational quadratic', alpha=2.0).options.hyperparameters
        {'alpha': 2.0}
    """

    kernel: str = POLYNOMIAL
    degree: int = DEFAULTS['degree']
    balance: float = DEFAULTS['balance']
    gamma: float | str = DEFAULTS['gamma']
    learnable: bool = False
    per_channel: bool = False
    chunk_mib: float = CHUNK_MIB
    hyperparameters: Mapping[str, Any] = MappingProxyType({})

    def checked(self) -> 'KervOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> KervOptions(kernel='gaussian', gamma=0.5).checked().gamma
            0.5
        """
        kernel = find_kernel(self.kernel)
        arguments.boolean(self.learnable, 'learnable')
        arguments.boolean(self.per_channel, 'per_channel')
        if self.learnable and not kernel.learnable:
            raise ArgumentError(
                f'learnable=True needs a kernel with a real hyperparameter, got kernel={self.kernel!r}, which has '
                'none; leave learnable out, or take polynomial or gaussian'
            )
        if self.per_channel and not self.learnable:
            raise ArgumentError('per_channel=True needs learnable=True: one learned value for each filter')
        kernel.probe(self.values(fan_in=1))
        return self._replace(chunk_mib=arguments.real(self.chunk_mib, 'chunk_mib', 0, above=True))

    def values(self, fan_in: int) -> dict[str, Any]:
        """Return the initial value of each of the kernel's hyperparameters.

        Args:
            fan_in: number of elements of a filter; ``gamma='auto'`` is 1/fan_in.

        Example:
            >>> KervOptions(kernel='gaussian').values(fan_in=4)
            {'gamma': 0.25}
        """
        values = {name: getattr(self, name) for name in DEFAULTS} | dict(self.hyperparameters)
        return checked_hyperparameters(find_kernel(self.kernel), fan_in, values)


class Kervolution(Response):
    """Mixin for the three layers: hyperparameters, forward and folding; see :class:`KervConv2d`.

    Example:
        >>> [layer.dims for layer in Kervolution.__subclasses__()][:3]
        [1, 2, 3]
    """

    Options = KervOptions
    short_name = 'kerv'
    folds = "where it is a convolution, kernel='linear' and kernel='polynomial' of degree 1; no other kernel"
    takes_1x1 = True
    no_decay = ('balance', 'gamma', 'alpha')
    # Set by KervolutionGuardHook to keep the largest |s| of a forward pass in `largest_product`.
    watched = False
    largest_product: Tensor | None = None

    @classmethod
    def checked_options(cls, options: dict[str, Any], named: type | None = None) -> KervOptions:
        """Return the checked options; names that are not options become ``hyperparameters`` of the kernel.

        Args:
            options: the arguments by name.
            named: not used: configs name the layers themselves.

        Raises:
            ValueError: if a value or a combination of values is invalid.
            TypeError: if an argument is unknown or has the wrong type.

        Example:
            >>> KervConv2d.checked_options({'kernel': 'gaussian'}).kernel
            'gaussian'
        """
        named = {name: value for name, value in options.items() if name in KervOptions._fields}
        others = {name: value for name, value in options.items() if name not in named}
        return KervOptions(**{**named, 'hyperparameters': {**named.get('hyperparameters', {}), **others}}).checked()

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Create a parameter for each learned hyperparameter, and an attribute for each other one.

        Example:
            >>> KervConv2d(4, 8, 3, learnable=True, per_channel=True).balance.shape
            torch.Size([8])
        """
        options = self.options
        # Not called `self.kernel`, which is a method of every operator with a kernel.
        self.kernel_name = options.kernel
        self.learnable, self.per_channel, self.chunk_mib = options.learnable, options.per_channel, options.chunk_mib
        kernel = find_kernel(self.kernel_name)
        self._initial = options.values(fan_in=self.weight[0].numel())
        size = self.out_channels if self.per_channel else 1
        # Not asked of the attributes later: functional_call puts tensors in place of the parameters.
        self._learned_names = kernel.learnable if self.learnable else ()
        # Hyperparameters that the kernel does not have are set to None.
        for name, value in (dict.fromkeys(DEFAULTS) | self._initial).items():
            if name in self._learned_names:
                self.register_parameter(name, nn.Parameter(torch.empty(size, **factory)))
            else:
                setattr(self, name, value)
        # Registered kernels have hyperparameters of other names.
        self.no_decay = tuple(dict.fromkeys((*self.no_decay, *self._learned())))

    def reset_operator_parameters(self) -> None:
        """Reset the learned hyperparameters to their initial values; leave ``weight`` and ``bias`` as they are.

        Example:
            >>> KervConv2d(4, 4, 3, learnable=True).reset_operator_parameters()
        """
        for name in self._learned():
            nn.init.constant_(getattr(self, name), self._initial[name])

    @property
    def starts_as_identity(self) -> bool:
        """``True`` if a fresh layer computes the plain convolution: only the linear kernel does.

        Example:
            >>> KervConv2d(4, 8, 3).starts_as_identity, KervConv2d(4, 8, 3, kernel='linear').starts_as_identity
            (False, True)
        """
        return self.kernel_name == LINEAR

    def _learned(self) -> tuple[str, ...]:
        return self._learned_names

    def _values(self) -> dict[str, Any]:
        """Return the hyperparameters, the learned ones clamped to their range."""
        values = {name: getattr(self, name) for name in self._initial}
        for name in self._learned():
            values[name] = within(values[name], MINIMUM.get(name, ABOVE_ZERO))
        return values

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Kervolve ``input`` (N, C, *spatial); returns (N, O, *spatial').

        Learned hyperparameters are first clamped in place: ``balance`` to >= 0, all others to >= 1e-8. A compiled
        layer, ``torch.func.functional_call`` with tensors that are no parameters, and transforms of ``torch.func``
        compute with the clamped values but change no tensor; the next ordinary call clamps the layer's own parameters.

        Example:
            >>> KervConv2d(3, 8, 3, padding=1)(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 5, 5])
        """
        x, padding = self._pad(input)
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
            # Keep the maximum over all calls of the layer.
            self.largest_product = largest if self.largest_product is None else self.largest_product.maximum(largest)

    def _linear(self) -> tuple[Tensor, Tensor | None] | None:
        if self.kernel_name == LINEAR:
            return self.weight, self.bias
        if self.kernel_name == POLYNOMIAL and self.degree == 1:
            shift = self.weight.new_zeros(self.out_channels) + self.balance
            return self.weight, shift if self.bias is None else self.bias + shift
        return None

    def _setting(self) -> str:
        return f' with kernel={self.kernel_name!r}'

    def extra_repr(self) -> str:
        """Return the arguments as torch's convolutions print them, then the kernel and its hyperparameters.

        Example:
            >>> KervConv2d(3, 8, 3, kernel='gaussian', gamma=0.5).extra_repr()
            "3, 8, kernel_size=(3, 3), stride=(1, 1), kernel='gaussian', gamma=0.5"
        """
        parts = [nn.Conv2d.extra_repr(self), f'kernel={self.kernel_name!r}']
        auto = {'gamma': 'auto'} if self.options.gamma == 'auto' else {}
        parts += [f'{name}={auto.get(name, value)}' for name, value in self._initial.items()]
        parts += [f'{flag}=True' for flag in ('learnable', 'per_channel') if getattr(self, flag)]
        return ', '.join(parts)


class KervConv1d(Kervolution, Conv1d):
    """Kervolution of sequences (N, C, L); arguments as in :class:`KervConv2d`.

    Example:
        >>> KervConv1d(3, 8, 3)(torch.randn(2, 3, 9)).shape
        torch.Size([2, 8, 7])
    """


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
    arc-cosine           infinitely wide layer                       order
    ==================== =========================================== ==================

    :func:`mmkerv.ops.register_kernel` adds more. Where d or :math:`\sum |x - w|` is not differentiable, its gradient
    is 0. ``linear`` and ``polynomial`` of degree 1 are plain convolutions, which :meth:`to_conv2d` returns; for the
    others it raises :class:`mmkerv.ops.FoldError`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as in ``nn.Conv2d``. The bias is added after the kernel.
        kernel: a name from the table, or that of a registered kernel.
        degree: exponent, an integer >= 1.
        balance: constant added to s, >= 0; the larger it is, the less weight the higher orders have.
        gamma: scale of the distance, > 0, or ``'auto'`` for 1/(C/groups * kH * kW). With 1.0 (the paper's LeNet) the Gaussian response and its
            gradient underflow to 0 from about 64 channels on.
        learnable: make the kernel's real hyperparameters (balance, gamma, alpha) parameters, which hold the values
            themselves and are clamped to their ranges. Exempt them from weight decay.
        per_channel: learn one value per filter instead of one for the whole layer.
        chunk_mib: memory limit of a chunk for ``'l1'`` and ``'manhattan'``, in MiB, > 0.
        **hyperparameters: ``alpha`` > 0, ``order``, and those of registered kernels.

    Raises:
        ValueError: if a value is invalid, the kernel is unknown, or it does not have a given hyperparameter.
        TypeError: if an argument is unknown or has the wrong type.

    Source: Kervolutional Neural Networks, CVPR 2019, equations 2, 9 to 11 and section 4.1.

    Example:
        >>> conv = KervConv2d(16, 32, 3, padding=1, learnable=True)
        >>> print(conv.extra_repr())
        16, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), kernel='polynomial', degree=3, balance=1.0, learnable=True
        >>> conv(torch.randn(2, 16, 7, 7)).shape
        torch.Size([2, 32, 7, 7])
    """  # noqa: E501


class KervConv3d(Kervolution, Conv3d):
    """Kervolution of volumes (N, C, D, H, W); arguments as in :class:`KervConv2d`.

    Example:
        >>> KervConv3d(2, 4, 3)(torch.randn(1, 2, 4, 4, 4)).shape
        torch.Size([1, 4, 2, 2, 2])
    """


KervConv = KervConv2d
