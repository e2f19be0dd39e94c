"""Family "generated kernel": the kernel is computed from parameters alone, y = conv2d(x, kernel(), bias)."""

import functools
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmkerv.ops.core.geometry import embedded, memory_format
from mmkerv.ops.core.precision import full_precision
from mmkerv.ops.core.tracing import fx_leaf, is_recording

# Evaluations of one layer, outside `frozen_kernels`, after which a warning names the block. A detector's head evaluates
# its layers once a level, so it is some images or batches more than a short look at a network takes.
MANY_EVALUATIONS = 200


class GeneratedKernel:
    r"""Mixin for a convolution with a generated kernel: forward, folding, and reuse inside ``frozen_kernels``.

    :math:`y = \mathrm{conv2d}(x, K(\theta), b)`, with x (N, C, H, W) and K (O, I/g, kH, kW) independent of x.

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`, and implements ``_kernel``.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> issubclass(CoCConv2d, GeneratedKernel)
        True
    """

    folds = 'into one plain convolution'
    # The kernel inside `frozen_kernels`, its bias where that is computed too, and the number of open blocks.
    _frozen_kernel: Tensor | None = None
    _frozen_bias: Tensor | None = None
    _frozen_blocks = 0
    # How often the kernel was computed for an evaluation.
    _evaluations = 0
    _not_copied = ('_frozen_kernel', '_frozen_bias', '_frozen_blocks', '_evaluations')
    # False for operators without a kernel that `frozen_kernels` could keep.
    _has_kernel = True

    @abstractmethod
    def _kernel(self) -> Tensor:
        """Compute the kernel in float32, or float64 for float64 parameters; called with autocast off."""
        raise NotImplementedError(f'{type(self).__name__} must implement _kernel')

    def kernel(self) -> Tensor:
        """Compute the kernel, (O, I/g, kH, kW), in the type of the parameters.

        It is computed at every call, in float32 at least, even under autocast.

        Example:
            >>> from mmkerv.ops import CoCConv2d
            >>> CoCConv2d(4, 8, 3).kernel().shape
            torch.Size([8, 4, 3, 3])
        """
        parameter = self._parameter()
        with full_precision(parameter.device):
            kernel = self._kernel().to(parameter.dtype)
        # The memory layout of the kernel determines that of the output, and mmcv's compiled operators (RoIAlign) assume
        # that their input is contiguous.
        return kernel.contiguous(memory_format=memory_format(parameter))

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (N, C, H, W) with the generated kernel; returns (N, O, H', W').

        Raises:
            RuntimeError: in training inside ``frozen_kernels`` with gradients enabled, since parameters would get none.

        Example:
            >>> from mmkerv.ops import CoCConv2d
            >>> CoCConv2d(3, 8, 3, padding=1)(torch.randn(2, 3, 5, 5)).shape
            torch.Size([2, 8, 5, 5])
        """
        return self._convolve(input, self._current_kernel())

    def _forward_kernel(self) -> Tensor:
        """Return the tensor that forward uses and ``frozen_kernels`` keeps: the kernel, or its expensive factor."""
        return self.kernel()

    def _forward_bias(self) -> Tensor | None:
        """Return the bias that ``frozen_kernels`` keeps: ``None`` unless it is computed from other parameters."""
        return None

    def _current_kernel(self) -> Tensor:
        """Return the kernel of the enclosing ``frozen_kernels`` block, or compute it."""
        if self._frozen_kernel is None:
            if not (self.training or torch.is_grad_enabled() or is_recording()):
                self._evaluations += 1
                if self._evaluations == MANY_EVALUATIONS:
                    warn_of_evaluations()
            return self._forward_kernel()
        if self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            raise RuntimeError(
                f'{type(self).__name__} was trained inside frozen_kernels, where its parameters get no gradient. '
                'Train outside the block, or call model.eval() or torch.no_grad() in it.'
            )
        # FSDP may compute in another type than that of its sharded parameters.
        return self._frozen_kernel.to(self._parameter().dtype)

    def _folded(self, dense: bool) -> nn.Module:
        return self._plain(self.kernel(), self.bias)

    def _instead_of_conv_forward(self) -> str:
        return 'Fold the operators first with mmkerv.ops.switch_to_deploy(model), or leave efficient_conv_bn_eval off.'

    def _apply(self, fn: Callable, *args, **kwargs) -> nn.Module:
        super()._apply(fn, *args, **kwargs)
        if self._frozen_kernel is not None:
            self._frozen_kernel = fn(self._frozen_kernel)
        if self._frozen_bias is not None:
            self._frozen_bias = fn(self._frozen_bias)
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        if self._frozen_kernel is not None:
            raise RuntimeError(
                f'cannot load {prefix!r} inside frozen_kernels: its kernel would be stale. Leave the block first.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


@functools.cache
def warn_of_evaluations() -> None:
    """Warn, once in a process, that a model computes its kernels at every call of an evaluation."""
    warnings.warn(
        'mmkerv: this model is evaluated outside mmkerv.ops.frozen_kernels, so the kernels of its operators are '
        'computed again for every batch. To compute them once, evaluate inside '
        '`with mmkerv.ops.frozen_kernels(model):`, or add '
        "dict(type='mmkerv.FrozenKernelsHook') to custom_hooks of the config; "
        'mmkerv.ops.switch_to_deploy(model) replaces them by plain convolutions',
        stacklevel=2,
    )


@contextmanager
def uncounted_evaluations(*models: nn.Module) -> Iterator[None]:
    """Leave the evaluations inside the block out of those that :func:`warn_of_evaluations` warns of.

    For timing a network that computes its kernels at every call.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> op = CoCConv2d(3, 8, 3).eval()
        >>> with uncounted_evaluations(op), torch.no_grad():
        ...     _ = op(torch.randn(1, 3, 5, 5))
        >>> op._evaluations
        0
    """
    counted = {m: m._evaluations for model in models for m in model.modules() if isinstance(m, GeneratedKernel)}
    for operator in counted:
        # Past the number that warns.
        operator._evaluations = MANY_EVALUATIONS
    try:
        yield
    finally:
        for operator, evaluations in counted.items():
            operator._evaluations = evaluations


@torch.no_grad()
def relative_change(kernel: Tensor, weight: Tensor) -> float:
    """Return |K - W| / |W|, the relative distance of a kernel K from its basic kernel W; 0 for a plain convolution.

    Args:
        kernel: K, (O, C/groups, *size).
        weight: W, (O, C/groups, *other); the smaller of the two is centred among zeros.

    Example:
        >>> relative_change(torch.tensor([[[0.0, 4.0, 1.0]]]), torch.tensor([[[4.0]]]))
        0.25
    """
    size = [max(pair) for pair in zip(kernel.shape[2:], weight.shape[2:])]
    kernel, weight = embedded(kernel, 1, size), embedded(weight, 1, size)
    return float((kernel - weight).norm() / weight.norm().clamp_min(torch.finfo(weight.dtype).tiny))
