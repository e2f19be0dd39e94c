"""Options of convolution of convolution beyond those of ``nn.Conv2d``, their checks, and the authors' settings."""

from typing import NamedTuple

from mmkerv.errors import ArgumentError
from mmkerv.ops.coc.functional import SHARE_MODES
from mmkerv.ops.coc.super_kernel import DILATE_MODES, super_kernel
from mmkerv.ops.core import arguments

SUPER_INITS = ('auto', 'identity', 'kaiming')
SUPER_NORMS = (None, 'ln')
STANDARDIZE_MODES = (False, True, 'ln')

# The authors' published settings (from the mmpretrain-style configs of their repository), which use layer norms.
OFFICIAL = {
    'standard': {'super_norm': 'ln', 'super_standardize': True, 'standardize': 'ln'},
    'light': {'super_norm': 'ln', 'super_standardize': False, 'standardize': 'ln'},
}


class CoCOptions(NamedTuple):
    """Arguments of :class:`CoCConv2d` beyond those of ``nn.Conv2d``; the defaults are the paper's optimum.

    Example:
        >>> CoCOptions(association=3).checked().association
        3
    """

    association: int = 2
    kernel_plus: int = 2
    num_layers: int = 1
    skip: bool = True
    dilate: bool | str = True
    share: str | None = 'ci'
    super_init: str = 'auto'
    super_norm: str | None = None
    super_standardize: bool = False
    standardize: bool | str = False
    super_bias: bool = False
    recompute: bool = False
    preset: str | None = None

    def checked(self) -> 'CoCOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> CoCOptions(super_init='identity', standardize=True).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: super_init='identity' has no identity to start from with ...
        """
        arguments.integer(self.association, 'association', 1)
        arguments.integer(self.num_layers, 'num_layers', 1)
        super_kernel(1, self.kernel_plus, self.dilate)
        for name in ('skip', 'super_standardize', 'super_bias', 'recompute'):
            arguments.boolean(getattr(self, name), name)
        for name, choices in (
            ('dilate', DILATE_MODES),
            ('share', SHARE_MODES),
            ('super_init', SUPER_INITS),
            ('super_norm', SUPER_NORMS),
            ('standardize', STANDARDIZE_MODES),
            ('preset', (None, *OFFICIAL)),
        ):
            arguments.one_of(getattr(self, name), name, choices)
        if self.super_norm == 'ln' and self.share != 'ci':
            raise ArgumentError(f"super_norm='ln' needs share='ci', got share={self.share!r}; use super_norm=None")
        if self.super_init == 'identity' and self.no_identity:
            raise ArgumentError(
                f"super_init='identity' has no identity to start from with {self.no_identity}; "
                "use super_init='kaiming' or 'auto', or drop that option"
            )
        return self

    @property
    def no_identity(self) -> str:
        """Option that rules out an initial kernel equal to ``weight``, or ``''``.

        Example:
            >>> CoCOptions(standardize='ln').no_identity, CoCOptions().no_identity
            ("standardize='ln'", '')
        """
        if self.super_standardize:
            return 'super_standardize=True'
        if self.standardize is not False:
            return f'standardize={self.standardize!r}'
        return "super_norm='ln' and skip=False" if self.super_norm and not self.skip else ''

    @property
    def start(self) -> str:
        """Initialisation of the super layers: ``'identity'`` or ``'kaiming'``.

        Example:
            >>> CoCOptions().start, CoCOptions(super_standardize=True).start
            ('identity', 'kaiming')
        """
        if self.super_init == 'auto':
            return 'kaiming' if self.no_identity else 'identity'
        return self.super_init
