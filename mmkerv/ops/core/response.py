"""Family "response": the output is a function of each patch that is linear only in special cases."""

from abc import abstractmethod

from torch import Tensor, nn

from mmkerv.errors import FoldError


class Response:
    r"""Mixin for an operator :math:`y_i = r(x_i, w) + b` whose response r to a patch :math:`x_i` may be non-linear.

    x (N, C, H, W), y (N, O, H', W'). It can be folded only if r is linear in the patch.

    An operator derives from it and from :class:`mmkerv.ops.core.base.Conv2d`, and implements ``forward`` and
    ``_linear``.

    Example:
        >>> from mmkerv.ops import KervConv2d
        >>> KervConv2d(3, 8, 3, kernel='linear').to_conv2d()
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """

    folds = 'never: it is not linear in the patch'

    @abstractmethod
    def _linear(self) -> tuple[Tensor, Tensor | None] | None:
        """Return kernel and bias of the equivalent convolution, or ``None`` if the response is not linear."""
        raise NotImplementedError(f'{type(self).__name__} must implement _linear')

    def kernel(self) -> Tensor:
        """Return the kernel (O, C/groups, kH, kW) of the equivalent convolution.

        Raises:
            FoldError: if the response is not linear in the patch.
        """
        return self._linear_or_raise()[0]

    def _linear_or_raise(self) -> tuple[Tensor, Tensor | None]:
        plain = self._linear()
        if plain is None:
            raise FoldError(
                f'{type(self).__name__}{self._setting()} is not linear in its input, so no plain convolution equals '
                'it; deploy it as it is'
            )
        return plain

    def _setting(self) -> str:
        """Return the arguments that make it non-linear, for messages: ' with ...' or ''."""
        return ''

    def _folded(self, dense: bool) -> nn.Module:
        return self._plain(*self._linear_or_raise())

    def _instead_of_conv_forward(self) -> str:
        if self._linear() is not None:
            return 'Fold the operators first with mmkerv.ops.switch_to_deploy(model), or leave it off.'
        return (
            'Its response is not linear in `weight`, and switch_to_deploy makes it no convolution. Leave '
            'efficient_conv_bn_eval off.'
        )
