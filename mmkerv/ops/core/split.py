"""Family "split": plain convolutions of parts of the channels, cheaper than the single equivalent convolution."""

from torch import Tensor

from mmkerv.ops.core.base import CONVOLUTIONS
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.core.geometry import centred


class SplitKernel(GeneratedKernel):
    r"""Mixin for an operator that convolves parts of the channels differently.

    :math:`y = \mathrm{concat}_j(x_{P_j} * K_j) + b`, equal to :math:`y = x * K + b` with K (O, C/groups, kH, kW), which
    is zero where a part has no tap.

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`. It implements ``forward`` (in the
    cheap form), ``_kernel`` (the equivalent dense kernel) and ``_parameter``. ``switch_to_deploy`` keeps it as it is
    unless called with ``split='dense'``, because the folded layer costs more.

    Example:
        >>> SplitKernel.costs_more_folded
        True
    """

    has_weight = False
    costs_more_folded = True
    # Forward never uses the dense kernel, so `frozen_kernels` has nothing to keep.
    _has_kernel = False

    def _convolve_part(self, x: Tensor, kernel: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """Convolve part of the padded input (:func:`mmkerv.ops.core.geometry.padded`) with a kernel of any odd size."""
        x = centred(x, kernel.shape[2:], 1, self.kernel_size, self.dilation)
        return CONVOLUTIONS[self.dims](x, kernel, bias, self.stride, 0, self.dilation, groups)
