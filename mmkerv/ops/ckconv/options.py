"""Options of continuous-kernel convolutions beyond those of torch's convolutions, and their checks."""

from typing import NamedTuple

from mmkerv.errors import ArgumentError
from mmkerv.ops.core import arguments

ACTIVATIONS = ('sine', 'relu', 'swish', 'rff')
METHODS = ('auto', 'fft', 'direct')
INITS = ('fan_in', 'official')
NETS = ('mlp', 'magnet')
MASKS = (None, 'gaussian')
# Activations that use the frequency omega_0.
PERIODIC = ('sine', 'rff')
OMEGA_0 = 10.0


class CKOptions(NamedTuple):
    """Arguments of :class:`CKConv1d` and :class:`CKConv2d` beyond those of torch's convolutions.

    Example:
        >>> CKOptions(hidden=16).checked().layers
        3
    """

    hidden: int = 32
    layers: int = 3
    omega_0: float = OMEGA_0
    activation: str = 'sine'
    separable: bool = False
    method: str = 'auto'
    weight_norm: bool = False
    init: str = 'fan_in'
    net: str = 'mlp'
    mask: str | None = None
    mask_init: float = 0.075
    crop: float | None = None

    def checked(self) -> 'CKOptions':
        """Return the options if each value and their combination are valid.

        Raises:
            ValueError: naming the option, its value, the rule and what to do.
            TypeError: if an option has the wrong type.

        Example:
            >>> CKOptions(omega_0=0.0).checked()
            Traceback (most recent call last):
            ...
            mmkerv.errors.ArgumentError: omega_0 must be > 0, got 0.0
        """
        arguments.integer(self.hidden, 'hidden', 1)
        arguments.integer(self.layers, 'layers', 2)
        arguments.real(self.omega_0, 'omega_0', 0.0, above=True)
        arguments.one_of(self.activation, 'activation', ACTIVATIONS)
        arguments.boolean(self.separable, 'separable')
        arguments.one_of(self.method, 'method', METHODS)
        arguments.boolean(self.weight_norm, 'weight_norm')
        arguments.one_of(self.init, 'init', INITS)
        self._check_flexible()
        if self.init == 'official' and self.activation != 'sine':
            raise ArgumentError(
                f"init='official' is the authors' start of sine layers, got activation={self.activation!r}; leave init "
                'out'
            )
        if self.activation not in PERIODIC and self.omega_0 != OMEGA_0:
            raise ArgumentError(
                f"omega_0 is the frequency of activation='sine' or 'rff', got omega_0={self.omega_0} with "
                f'activation={self.activation!r}; leave omega_0 out'
            )
        if self.activation == 'rff' and self.hidden % 2:
            raise ArgumentError(
                f"hidden must be even with activation='rff' (a cosine and a sine for each frequency), got {self.hidden}"
            )
        return self

    def _check_flexible(self) -> None:
        arguments.one_of(self.net, 'net', NETS)
        arguments.one_of(self.mask, 'mask', MASKS)
        arguments.real(self.mask_init, 'mask_init', 0.0, above=True)
        if self.crop is not None and not 0 < arguments.real(self.crop, 'crop', 0.0, above=True) < 1:
            raise ArgumentError(f'crop must be a value of the mask between 0 and 1, got {self.crop}; the paper has 0.1')
        for name in ('crop', 'mask_init'):
            if self.mask is None and getattr(self, name) != self._field_defaults[name]:
                raise ArgumentError(
                    f'{name} belongs to a mask, got {name}={getattr(self, name)} with mask=None; add '
                    f"mask='gaussian', or leave {name} out"
                )
        for name in ('activation', 'weight_norm', 'init'):
            if self.net == 'magnet' and getattr(self, name) != self._field_defaults[name]:
                raise ArgumentError(
                    f"{name} is an option of net='mlp', got {name}={getattr(self, name)!r} with net='magnet'; leave "
                    f'{name} out'
                )
