"""Family "dynamic": every sample is convolved with a kernel computed from that sample."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkerv.errors import ArgumentError, FoldError
from mmkerv.ops.core.convolve import CONVOLUTIONS
from mmkerv.ops.core.geometry import memory_format, padded
from mmkerv.ops.core.precision import convolution_type, full_precision
from mmkerv.ops.core.recompute import convolve_and_forget, only_unchanged
from mmkerv.ops.core.tracing import fx_leaf, is_traced_for_any_size, needs_plain_operations

EXPORT_FORMS = ('unfold', 'mixture')


class Mixture(NamedTuple):
    r"""A kernel for each sample as a sum of fixed ones, :math:`K_n = f_n c_n s_n (W + \sum_e r_{ne} W_e)`.

    Args:
        experts: :math:`W_e`, (E, O, C/groups, kH, kW), or ``None``.
        weights: r, (N, E), or ``None``.
        channels: c, (N, C), or ``None`` for 1.
        filters: f, (N, O), or ``None`` for 1.
        taps: s, (N, kH * kW), or ``None`` for 1.

    Example:
        >>> Mixture(torch.ones(1, 8, 3, 3, 3), torch.ones(2, 1)).taps
    """

    experts: Tensor | None = None
    weights: Tensor | None = None
    channels: Tensor | None = None
    filters: Tensor | None = None
    taps: Tensor | None = None


class DynamicKernel:
    r"""Mixin for a convolution whose kernel depends on the input: :math:`y_n = x_n * K(x_n) + b`.

    x (N, C, H, W), K(x) (N, O, C/groups, kH, kW). No plain convolution is equivalent, so it never folds.

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`, and implements ``_kernel``. The batch is
    computed as one grouped convolution. While ``torch.jit.trace``, ``torch.export`` or an ONNX exporter records a graph
    for any batch size, which ONNX does not allow for the number of groups, it is computed to the same numbers but for
    rounding in one of two other forms: as a product of the kernels with the unfolded patches (``'unfold'``), or as a
    weighted sum of convolutions with fixed kernels (``'mixture'``), where the operator implements ``_mixture`` and has
    an option ``export_form``.

    Where all samples have one kernel, which ``_is_per_sample`` tells, it is computed as an ordinary convolution.

    For backward, an operator that implements ``_sources`` saves each sample's kernel, and computes what that is made of
    again from the gates; with an option ``recompute``, the kernel too.

    Example:
        >>> from mmkerv.ops.core.base import Conv2d
        >>> class Brighter(DynamicKernel, Conv2d):
        ...     def _kernel(self, x):
        ...         return x.mean((1, 2, 3)).view(-1, 1, 1, 1, 1) * self.weight
        >>> Brighter(3, 8, 3).kernel(torch.randn(2, 3, 5, 5)).shape
        torch.Size([2, 8, 3, 3, 3])
    """

    folds = 'never: every image has a kernel of its own'

    def _gates(self, x: Tensor, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute what the kernels are made from, by default the images.

        Args:
            x: (N, C, *spatial), of the type of the parameters; called with autocast off.
            given: what the operator's ``forward`` takes beside the input.
        """
        return (x,)

    def _sources(self) -> tuple[Tensor | None, ...]:
        """Return the parameters that ``_kernel`` gets before the gates; it then must read no others.

        Those at hand in backward may be others, as after ``torch.func.functional_call``.
        """
        return ()

    @abstractmethod
    def _kernel(self, *sources_and_gates: Tensor | None) -> Tensor:
        """Compute the kernels (N, O, C/groups, *kernel_size) of gates, or (1, ...) if all are the same.

        Called with autocast off.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement _kernel')

    def _biases(self, *gates: Tensor | None) -> Tensor | None:
        """Compute the biases (N, O) of gates, or ``None`` where all samples have ``bias``; called with autocast off."""
        return None

    def _mixture(self, *gates: Tensor | None) -> Mixture:
        """Return the kernels of gates as sums of fixed ones; called with autocast off."""
        raise NotImplementedError(f'{type(self).__name__} must implement _mixture')

    def _is_per_sample(self) -> bool:
        """Return whether samples have kernels of their own; with its options an operator may have one for all."""
        return True

    def _makes_large_tensors(self) -> bool:
        """Return whether autograd would save tensors of the size of all kernels while they are computed."""
        return False

    def _features(self, x: Tensor) -> Tensor:
        """Compute the maps that are convolved, of the shape and type of ``x`` (N, C, *spatial)."""
        return x

    def gates(self, x: Tensor, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute what the kernels of ``x`` (N, C, H, W) are made from; what that is, the operator says.

        Example:
            >>> from mmkerv.ops import CondConv2d
            >>> CondConv2d(16, 32, 3, experts=2).gates(torch.randn(1, 16, 5, 5)).routing
            tensor([[0., 0.]], grad_fn=<DivBackward0>)
        """
        parameter = self._parameter()
        with full_precision(parameter.device):
            return self._gates(x.to(parameter.dtype), *given)

    def kernel(self, x: Tensor) -> Tensor:
        """Compute the kernel of each sample of ``x`` (N, C, H, W): (N, O, C/groups, kH, kW).

        It is computed in the type of the parameters, even under autocast.

        Example:
            >>> from mmkerv.ops.core.base import Conv2d
            >>> class Same(DynamicKernel, Conv2d):
            ...     def _kernel(self, x):
            ...         return self.weight.expand(len(x), *self.weight.shape)
            >>> Same(3, 8, 3).kernel(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 3, 3, 3])
        """
        if not x.shape[0]:
            return self.kernel(_with_zeros(x))[:0]
        kernels = self._kernels((*self._sources(), *self.gates(x)))
        return kernels.expand(x.shape[0], *kernels.shape[1:])

    def _kernels(self, sources_and_gates: tuple[Tensor | None, ...]) -> Tensor:
        with full_precision(self._parameter().device):
            return self._kernel(*sources_and_gates)

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve each sample of ``input`` (N, C, H, W), or a single sample (C, H, W), with its own kernel.

        Example:
            >>> from mmkerv.ops.core.base import Conv2d
            >>> class Same(DynamicKernel, Conv2d):
            ...     def _kernel(self, x):
            ...         return self.weight.expand(len(x), *self.weight.shape)
            >>> Same(3, 8, 3)(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 3, 3])
        """
        return self._respond(input)

    def _respond(self, input: Tensor, *given: Tensor | None) -> Tensor:
        if input.dim() == self.dims + 1:
            return self._respond(input[None], *given)[0]
        traced = self.dims == 2 and is_traced_for_any_size()
        if not traced and not input.shape[0]:
            # Neither Fourier transforms nor convolutions in groups exist for no samples at all.
            padded = (tensor if tensor is None else _with_zeros(tensor) for tensor in (input, *given))
            with _norms_in_evaluation(self):
                return self._respond(*padded)[:0]
        gates, x = self.gates(input, *given), self._features(input)
        if not self._is_per_sample():
            return self._convolve(x, self._kernels((*self._sources(), *gates))[0])
        if not traced:
            y = self._grouped(x, gates)
        elif getattr(self.options, 'export_form', None) == 'mixture':
            with full_precision(self._parameter().device):
                mixture = self._mixture(*gates)
            y = self._mixed(x, mixture)
        else:
            y = self._unfolded(x, self._kernels((*self._sources(), *gates)))
        if self.bias is not None:
            with full_precision(self.bias.device):
                biases = self._biases(*gates)
            bias = self.bias if biases is None else biases
            y = y + bias.to(convolution_type(bias)).view(*bias.shape, *(1,) * self.dims)
        layout = memory_format(x)
        return y.contiguous(memory_format=layout) if layout is torch.channels_last else y

    def _grouped(self, x: Tensor, gates: tuple[Tensor | None, ...]) -> Tensor:
        """Convolve each sample of ``x`` (N, C, *spatial) with the kernel of its gates, the whole batch in groups."""
        samples, made_of = x.shape[0], (*self._sources(), *gates)
        x, padding = self._pad(x)

        def make() -> Tensor:
            kernels = self._kernels(made_of)
            return kernels.expand(samples, *kernels.shape[1:]).flatten(0, 1)

        def convolve(x: Tensor, kernels: Tensor) -> Tensor:
            geometry = (self.stride, padding, self.dilation, samples * self.groups)
            y = CONVOLUTIONS[self.dims](x.flatten(0, 1)[None], kernels, None, *geometry)
            return y.view(samples, self.out_channels, *y.shape[2:])

        tensors = [tensor for tensor in made_of if tensor is not None]
        # Inside torch.compile the partitioner decides what to save.
        keeps = needs_plain_operations() or not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors)
        if not keeps and getattr(self.options, 'recompute', False):
            return convolve_and_forget(x, make, convolve, lambda: tensors)
        if keeps or not self._makes_large_tensors():
            return convolve(x, make())
        make_again = only_unchanged(make, lambda: tensors, 'a kernel whose factors are recomputed in backward')
        return convolve(x, checkpoint(make_again, use_reentrant=False, preserve_rng_state=False))

    def _unfolded(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Convolve each sample of ``x`` (N, C, H, W) with its kernel by a product of matrices."""
        x = padded(x, self.kernel_size, self.padding, self.dilation, self.padding_mode)
        sizes = zip(x.shape[2:], self.kernel_size, self._per_axis(self.stride), self._per_axis(self.dilation))
        shape = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes]
        patches = F.unfold(x, self.kernel_size, self.dilation, 0, self.stride)
        length = math.prod(self.kernel_size) * (self.in_channels // self.groups)
        patches = patches.view(-1, self.groups, length, patches.shape[-1])
        kernels = kernels.reshape(-1, self.groups, self.out_channels // self.groups, length)
        return (kernels @ patches).reshape(-1, self.out_channels, *shape)

    def _mixed(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Convolve ``x`` (N, C, H, W) with fixed kernels, and add up the results with the weights of each sample."""
        if mixture.channels is not None:
            x = x * _at_pixels(mixture.channels, x)
        x = padded(x, self.kernel_size, self.padding, self.dilation, self.padding_mode)
        kernels = [self.weight, *(() if mixture.experts is None else mixture.experts.to(self.weight.dtype))]

        def weighted(x: Tensor, taps: tuple[Any, ...], dilation: Any) -> Tensor:
            parts = [F.conv2d(x, k[taps], None, self.stride, 0, dilation, self.groups) for k in kernels]
            return sum(
                (_at_pixels(mixture.weights[:, e : e + 1], part) * part for e, part in enumerate(parts[1:])), parts[0]
            )

        if mixture.taps is None:
            y = weighted(x, (...,), self.dilation)
        else:
            # A gate of a tap is that of a convolution with this tap alone, which is 1x1 on a part of the maps.
            (rows, columns), (down, across) = self.kernel_size, self._per_axis(self.dilation)
            y = 0
            for row in range(rows):
                for column in range(columns):
                    part = x[:, :, row * down :, column * across :]
                    part = part[:, :, : (row + 1 - rows) * down or None, : (column + 1 - columns) * across or None]
                    number = row * columns + column
                    taps = (..., slice(row, row + 1), slice(column, column + 1))
                    response = weighted(part, taps, 1)
                    y = y + _at_pixels(mixture.taps[:, number : number + 1], response) * response
        return y if mixture.filters is None else y * _at_pixels(mixture.filters, y)

    def _folded(self, dense: bool) -> nn.Module:
        raise FoldError(
            f'{type(self).__name__} computes its kernel from each input, so no plain convolution equals it; deploy it '
            'as it is'
        )

    def _instead_of_conv_forward(self) -> str:
        return 'Its kernel depends on the input, so it has no plain form. Leave efficient_conv_bn_eval off.'


@contextmanager
def exported_as(model: nn.Module, form: str | None) -> Iterator[None]:
    """Give every dynamic operator of ``model`` the option ``export_form`` for a block of code.

    Args:
        model: any module.
        form: ``'unfold'`` or ``'mixture'``; ``None`` leaves each operator its own.

    Raises:
        ValueError: if a layer has no such form, with its name and the reason.

    Example:
        >>> from mmkerv.ops import FDConv2d
        >>> with exported_as(nn.Sequential(FDConv2d(32, 32, 3)), 'mixture'):
        ...     pass
        Traceback (most recent call last):
        ...
        mmkerv.errors.ArgumentError: 0 (FDConv2d): export_form='mixture' needs ksm_local=False: ...
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, DynamicKernel)}
    layers = {name: m for name, m in layers.items() if 'export_form' in m.options._fields}
    before = {m: m.options for m in layers.values()}
    try:
        for name, layer in layers.items() if form is not None else ():
            try:
                layer.options = layer.options._replace(export_form=form).checked()
            except ArgumentError as error:
                raise ArgumentError(f'{name or "the model"} ({type(layer).__name__}): {error}') from error
        yield
    finally:
        for layer, options in before.items():
            layer.options = options


def _at_pixels(gates: Tensor, like: Tensor) -> Tensor:
    """View gates (N, channels) as factors of maps (N, channels, H, W), in their type."""
    return gates.to(like.dtype)[..., None, None]


@contextmanager
def _norms_in_evaluation(module: nn.Module) -> Iterator[None]:
    """Keep batch norms from the statistics of samples that are none."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm in norms:
            norm.train()


def _with_zeros(x: Tensor) -> Tensor:
    """Append a sample of zeros."""
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])])
