"""Base classes of all operators, with the arguments, attributes, initialisation and padding of torch's convolutions.

An operator derives from :class:`Conv1d`, :class:`Conv2d` or :class:`Conv3d`, declares its own arguments in a
``NamedTuple`` called ``Options``, and creates its parameters in ``make_parameters``. The other class attributes tell
the rest of the package what it needs to know about the operator.
"""

import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from mmkerv.errors import ArgumentError, ArgumentTypeError, CheckpointMismatchError, FoldError
from mmkerv.ops.core import arguments
from mmkerv.ops.core.convolve import convolve
from mmkerv.ops.core.deploy_step import refuse_in_deploy_step
from mmkerv.ops.core.geometry import extended_padding, odd, pad
from mmkerv.ops.core.initialisation import InitialisedAsPlain
from mmkerv.ops.core.norm_fusion import is_fusing_norm
from mmkerv.ops.core.random_numbers import own_random_numbers

CONV2D_KEYWORDS = ('stride', 'padding', 'dilation', 'groups', 'bias', 'padding_mode', 'device', 'dtype')
# Modules with the functions that initialisers of ``init_cfg`` apply to a network.
INITIALISERS = ('mmengine.model.weight_init', 'mmkerv.engine.initialisers')


class NoOptions(NamedTuple):
    """Options of an operator that has no arguments beyond those of torch's convolutions.

    Example:
        >>> NoOptions().checked()
        NoOptions()
    """

    def checked(self) -> 'NoOptions':
        """Return the options if each value and their combination are valid.

        Example:
            >>> NoOptions().checked()
            NoOptions()
        """
        return self


class ConvNd(nn.Module):
    r"""Base class of all operators: the arguments and attributes of torch's convolutions, but no forward.

    :math:`y = \mathrm{op}(x; W, b)` with x of shape (N, C, *spatial) and y of shape (N, O, *spatial').

    Args:
        in_channels: channels C of the input, >= 1.
        out_channels: channels O of the output, >= 1.
        kernel_size: extent of the kernel, one integer or one per spatial axis.
        stride: step of the window.
        padding: number of elements added on each side, filled as ``padding_mode`` says, or ``'same'`` or ``'valid'``.
        dilation: distance between the kernel's taps.
        groups: number of channel groups that are convolved independently; divides both channel counts.
        bias: whether a learnable bias is added to the output.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.
        device: device of the parameters.
        dtype: type of the parameters.
        **options: the operator's own arguments, the fields of its ``Options``.

    Raises:
        ValueError: if an argument has an invalid value; the message names the argument.
        TypeError: if an argument is unknown or has the wrong type.

    Example:
        >>> Conv2d(3, 8, 3, padding=1).weight.shape
        torch.Size([8, 3, 3, 3])
    """

    dims: int
    transposed = False
    output_padding: tuple[int, ...]
    # The operator's own arguments: a NamedTuple with defaults, whose `checked()` returns the valid options or raises.
    Options: type = NoOptions
    # False for an operator whose kernel is not derived from a basic kernel; its `weight` is None.
    has_weight = True
    # Whether it has no basic kernel, but a method `decompose(weight)` that brings it near a plain convolution and
    # returns the relative error. A plain weight that is loaded is then decomposed as well.
    decomposes_weight = False
    # Name in commands and file names: the registered name in lower case without `conv`.
    short_name = ''
    # Whether configs replace 1x1 convolutions with it too.
    takes_1x1 = False
    # Into what `switch_to_deploy` folds it, for people.
    folds = 'never: no plain convolution is equal to it'
    # Whether the folded layer costs more than the operator; such an operator is folded only on request.
    costs_more_folded = False
    # Names of its parameters and submodules that are exempt from weight decay.
    no_decay: tuple[str, ...] = ()
    # Names of its parameters that scale and shift a normalised kernel: rules for norms apply to them.
    norm_parameters: tuple[str, ...] = ()
    # Factors on the learning rate of its parameters and submodules, by name.
    lr_mult: dict[str, float] = {}
    # Names of attributes that are neither pickled nor copied by `deepcopy`.
    _not_copied: tuple[str, ...] = ()

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
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ):
        refuse_in_deploy_step(type(self).__name__, ConvNd)
        checked = self.checked_options(options)
        super().__init__()
        self.options = checked
        self.in_channels = arguments.integer(in_channels, 'in_channels', 1)
        self.out_channels = arguments.integer(out_channels, 'out_channels', 1)
        self.groups = arguments.integer(groups, 'groups', 1)
        for name, channels in (('in_channels', self.in_channels), ('out_channels', self.out_channels)):
            if channels % self.groups:
                raise ArgumentError(
                    f'{name} must be divisible by groups, got {name}={channels} and groups={self.groups}'
                )
        self.kernel_size = arguments.integers(kernel_size, self.dims, 'kernel_size', 1)
        self.stride = arguments.integers(stride, self.dims, 'stride', 1)
        self.padding = arguments.padding_argument(padding, self.dims, self.stride)
        self.dilation = arguments.integers(dilation, self.dims, 'dilation', 1)
        self.padding_mode = arguments.one_of(padding_mode, 'padding_mode', arguments.PADDING_MODES)
        factory = {'device': device, 'dtype': dtype}
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        extent = self.extent(self.kernel_size)
        if extent is not None:
            # Upstream libraries compute the padding from `kernel_size`, so both are those of the kernel that convolves.
            self.padding = extended_padding(self.kernel_size, extent, self.padding, self.dilation)
            if self.has_weight:
                # The taps of an even basic kernel lie half a step beside those of the extent.
                odd(self.kernel_size)
            self.kernel_size = arguments.integers(extent, self.dims, 'kernel_extent', 1)
        self.register_parameter('weight', nn.Parameter(torch.empty(shape, **factory)) if self.has_weight else None)
        self.register_parameter('bias', nn.Parameter(torch.empty(self.out_channels, **factory)) if bias else None)
        # Their submodules draw numbers, which reset_parameters replaces.
        with own_random_numbers(torch.empty(0, **factory).device):
            self.make_parameters(factory)
        self.reset_parameters()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _require_options(cls)
        # Makes help() and inspect.signature list the options by name; a class with its own constructor keeps its own.
        cls.__signature__ = _signature(cls.Options) if cls.__init__ is ConvNd.__init__ else None
        # mmengine's initialisers look no further than the direct bases, see `Conv2d`: subclasses of an operator, those
        # that `torch.nn.utils.parametrizations` makes included, need the base there too.
        for base in cls.__mro__[1:]:
            if base.__name__ in ('Conv1d', 'Conv2d', 'Conv3d') and base not in cls.__bases__:
                cls.__bases__ = (*cls.__bases__, base)

    @classmethod
    def checked_options(cls, options: dict[str, Any], named: type | None = None) -> Any:
        """Return the operator's own arguments as its ``Options``.

        Args:
            options: the arguments by name.
            named: the class that the user named, if it is not this one; its ``keywords`` are valid arguments too.

        Raises:
            ValueError: if a value or a combination of values is invalid.
            TypeError: if an argument is unknown or has the wrong type.

        Example:
            >>> from mmkerv.ops import CoCConv2d
            >>> CoCConv2d.checked_options({'association': 3}).association
            3
        """
        fields = cls.Options._fields
        known = (*getattr(named or cls, 'keywords', ()), *fields, *CONV2D_KEYWORDS)
        arguments.reject_unknown((named or cls).__name__, [name for name in options if name not in fields], known)
        return cls.Options(**options).checked()

    def extent(self, kernel_size: tuple[int, ...]) -> Any:
        """Return the size of the kernel that convolves, or ``None`` if it is ``kernel_size``.

        Args:
            kernel_size: the constructor's argument, the size of ``weight``.

        Example:
            >>> from mmkerv.ops import DCLSConv2d
            >>> DCLSConv2d(4, 8, 3, kernel_extent=7).extent((3, 3))
            7
        """
        return getattr(self.options, 'kernel_extent', None)

    def make_parameters(self, factory: dict[str, Any]) -> None:
        """Check the geometry against the options and create the operator's own parameters, uninitialised.

        Called by the constructor once all arguments, ``weight`` and ``bias`` are set, and before
        :meth:`reset_parameters`.

        Args:
            factory: ``device`` and ``dtype`` of the parameters.

        Example:
            >>> Conv2d(3, 8, 3).make_parameters({})
        """

    def reset_parameters(self) -> None:
        """Draw ``weight`` and ``bias`` exactly as ``nn.Conv2d`` does, then initialise the operator's own parameters.

        An operator with a ``weight`` takes as many of torch's random numbers as ``nn.Conv2d``, so that under the same
        seed the layers built after it have the weights that they have in the plain network.

        Example:
            >>> _ = torch.manual_seed(0); mine = Conv2d(2, 2, 3)
            >>> _ = torch.manual_seed(0); plain = nn.Conv2d(2, 2, 3)
            >>> bool(torch.equal(mine.weight, plain.weight))
            True
        """
        self._reset_weight_and_bias()
        # Without a weight, nothing else would tell two such layers in a row apart.
        with nullcontext() if self.weight is None else own_random_numbers(self.weight.device):
            self.reset_operator_parameters()

    def _reset_weight_and_bias(self) -> None:
        if self.weight is not None:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            size = self.kernel_size if self.weight is None else self.weight.shape[2:]
            bound = 1 / math.sqrt(self.in_channels // self.groups * math.prod(size))
            nn.init.uniform_(self.bias, -bound, bound)

    def reset_operator_parameters(self) -> None:
        """Initialise the operator's own parameters; leave ``weight`` and ``bias`` as they are.

        Example:
            >>> Conv2d(3, 8, 3).reset_operator_parameters()
        """

    def apply(self, fn: Callable[[nn.Module], None]) -> 'ConvNd':
        """Call ``fn`` for the submodules, then for the layer; an initialiser of ``init_cfg`` for the layer alone.

        With ``override=dict(name=...)``, such an initialiser sets whatever has a ``weight``, super layers too.

        Example:
            >>> from mmkerv.ops import CoCConv2d
            >>> names = []; _ = CoCConv2d(3, 8, 3).apply(lambda m: names.append(type(m).__name__)); names
            ['SuperLayer', 'ModuleList', 'CoCConv2d']
        """
        if getattr(fn, '__module__', None) in INITIALISERS:
            fn(self)
            return self
        return super().apply(fn)

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Return the operator's own parameters by name: all but ``weight`` and ``bias``, or what gives these.

        Example:
            >>> from mmkerv.ops import CoCConv2d
            >>> list(CoCConv2d(4, 8, 3).own_parameters())
            ['super_layers.0.weight']
        """
        return {name: p for name, p in self.named_parameters() if _is_own(name)}

    @property
    def starts_as_identity(self) -> bool:
        """``True`` if a fresh layer equals the plain convolution with its ``weight`` and ``bias``.

        Example:
            >>> from mmkerv.ops import CoCConv2d
            >>> CoCConv2d(4, 8, 3).starts_as_identity
            True
        """
        return False

    def start_from_plain(self) -> str | None:
        """Change ``weight``, which is that of a plain convolution, so that the layer starts as that convolution.

        ``mmkerv.convert`` calls it for each layer that took over a weight. An operator that starts as the identity has
        nothing to do, and one that has no such start does nothing.

        Returns:
            What was done to the weight, for the log; ``None`` for nothing.

        Example:
            >>> Conv2d(3, 8, 3).start_from_plain()
        """
        return None

    def option_for(self, parameter: str) -> str | None:
        """Return the option that would give the layer a parameter of this name, for messages about checkpoints.

        Args:
            parameter: a checkpoint key, relative to this layer, for which the layer has no parameter.

        Example:
            >>> from mmkerv.ops import CoCConv2d
            >>> CoCConv2d(4, 8, 3).option_for('super_layers.0.bias')
            'super_bias=True'
        """
        return None

    @classmethod
    def deploy_cfg(cls, conv_cfg: dict[str, Any]) -> dict[str, Any] | None:
        """Return the ``conv_cfg`` of the folded layer, or ``None`` for a plain convolution of the same shape.

        Args:
            conv_cfg: the config that the layer was built with. If the operator has an argument ``kernel_extent``, that
                is the size of the folded kernel.

        Example:
            >>> Conv2d.deploy_cfg(dict(type='CoCConv'))
            >>> Conv2d.deploy_cfg(dict(type='CKConv', kernel_extent=7))
            {'type': 'mmkerv.FoldedConv', 'kernel_extent': 7}
        """
        if not conv_cfg.get('kernel_extent'):
            return None
        shape = {key: conv_cfg[key] for key in ('kernel_extent', 'replace_1x1') if conv_cfg.get(key)}
        return {'type': 'mmkerv.FoldedConv', **shape}

    @classmethod
    def leaves_plain(cls, in_channels: int, kernel_size: tuple[int, ...], groups: int) -> bool:
        """Return ``True`` if configs keep a convolution of this shape plain, because the operator would gain nothing.

        Example:
            >>> Conv2d.leaves_plain(8, (1, 1), groups=1), Conv2d.leaves_plain(8, (3, 1), groups=1)
            (True, False)
        """
        return max(kernel_size) == 1 and not cls.takes_1x1

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise RuntimeError(
            f"{type(self).__name__}._conv_forward was called, as mmcv's efficient_conv_bn_eval does: it would use "
            f'`weight` as the kernel, which it is not. {self._instead_of_conv_forward()}'
        )

    def _instead_of_conv_forward(self) -> str:
        return 'Leave efficient_conv_bn_eval off.'

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return the input, padded unless the convolution can pad by itself, and the padding left to that."""
        # Upstream libraries rewrite stride, padding and dilation of built layers, so all three are read at each call.
        return pad(x, self.kernel_size, self.padding, self.dilation, self.padding_mode)

    def _per_axis(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return _ntuple(self.dims)(value)

    def _convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve ``x`` with ``kernel`` in the layer's geometry; ``bias`` defaults to the layer's."""
        x, padding = self._pad(x)
        bias = self.bias if bias is None else bias
        return convolve(x, kernel, bias, self.stride, padding, self.dilation, self.groups)

    def _fold(self, dense: bool) -> nn.Module:
        arguments.boolean(dense, 'dense')
        with torch.no_grad():
            return self._folded(dense)

    def _folded(self, dense: bool) -> nn.Module:
        """Return the equivalent plain module: the cheapest one, or a single convolution if ``dense``."""
        raise FoldError(f'{type(self).__name__} has no equal plain convolution; deploy it as it is')

    @torch.no_grad()
    def _plain(self, weight: Tensor, bias: Tensor | None, **geometry: Any) -> nn.Module:
        """Return torch's convolution with copies of ``weight`` and ``bias``; ``geometry`` overrides this layer's."""
        plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.dims - 1]
        names = ('stride', 'padding', 'dilation', 'groups', 'padding_mode')
        geometry = {name: getattr(self, name) for name in names} | geometry
        out_channels, width, *size = weight.shape
        conv = plain(
            width * geometry['groups'], out_channels, tuple(size), bias=bias is not None, device='meta', **geometry
        )
        learns = self._parameter().requires_grad
        conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=learns)
        if bias is not None:
            conv.bias = nn.Parameter(
                bias.detach().clone(), requires_grad=learns if self.bias is None else self.bias.requires_grad
            )
        return conv.train(self.training)

    def _parameter(self) -> Tensor:
        """Return the parameter whose type, device and ``requires_grad`` count as the layer's."""
        return self.weight

    def read_published(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace the layer's entries in a published layout by those of its own, in place; by default there is none.

        Called before the layer loads, and before a checkpoint is compared with the network. Entries of its own, and
        those that are no tensors, stay as they are.

        Args:
            state_dict: weights of a network.
            prefix: of the layer's keys.

        Example:
            >>> from mmkerv.ops import CondConv2d
            >>> state = {'condconv_kernel': torch.ones(4, 54)}
            >>> CondConv2d(2, 3, 3, bias=False).read_published(state, ''); sorted(state)
            ['experts', 'weight']
        """

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        self.read_published(state_dict, prefix)
        # Raised even where unexpected keys are ignored: without the option the layer would compute something else.
        for key in state_dict:
            option = self.option_for(key.removeprefix(prefix)) if key.startswith(prefix) else None
            if option:
                raise CheckpointMismatchError(
                    f'{key} is in the checkpoint, but {type(self).__name__} was built without {option}; add that to '
                    'its conv_cfg'
                )
        # With a plain convolution's weights, even a strict load leaves the operator's own parameters as they are.
        state = self.state_dict(keep_vars=True)
        own = {f'{prefix}{name}': value for name, value in state.items() if _is_own(name)}
        plain = self.weight is not None and f'{prefix}weight' in state_dict
        if plain and not any(key in state_dict for key in own):
            state_dict.update(own)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._not_copied}

    def __reduce_ex__(self, protocol: Any) -> Any:
        # torch.nn.utils.fuse_conv_bn_eval copies the layer and scales `weight` of the copy, which of an operator is not
        # the kernel: it gets the folded layer instead. Every other copy is a plain one.
        if not is_fusing_norm():
            return super().__reduce_ex__(protocol)
        plain = self._plain_to_fuse()
        return (lambda: plain), ()

    def _plain_to_fuse(self) -> nn.Module:
        """Return the single convolution that a norm can be fused into."""
        try:
            self._refuse_hooks()
            plain = self._fold(dense=True)
        except FoldError as error:
            raise FoldError(f'fuse_conv_bn_eval: {error}; leave the norm after it as it is') from error
        if isinstance(plain, nn.Sequential):
            raise FoldError(
                f'fuse_conv_bn_eval: {type(self).__name__} folds into {len(plain)} layers in a row. Fold the model '
                'with mmkerv.ops.switch_to_deploy(model), then fuse the norm into the last of them'
            )
        return plain

    def _refuse_hooks(self) -> None:
        if has_hooks(self):
            raise FoldError(f'{type(self).__name__} has hooks that folding would lose; remove them first')

    def extra_repr(self) -> str:
        """Return the arguments as torch's convolutions print them, and the options that differ from their defaults.

        Example:
            >>> Conv2d(3, 8, 3, padding=1, bias=False).extra_repr()
            '3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False'
        """
        options = [f'{name}={value!r}' for name, value in self._changed_options().items()]
        return ', '.join([nn.Conv2d.extra_repr(self), *options])

    def _changed_options(self) -> dict[str, Any]:
        defaults = self.options._field_defaults
        return {name: value for name, value in self.options._asdict().items() if value != defaults[name]}


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks, which a layer that takes its place would lose.

    Example:
        >>> conv = nn.Conv2d(3, 8, 3)
        >>> handle = conv.register_full_backward_pre_hook(lambda module, gradient: None); has_hooks(conv)
        True
    """
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks)


def _is_own(name: str) -> bool:
    # torch keeps there what it computes a parametrised weight from.
    return name not in ('weight', 'bias') and not name.startswith('parametrizations.')


def _require_options(kind: type[ConvNd]) -> None:
    """Raise unless the options of a class of operators are a NamedTuple with defaults and ``checked``."""
    about, options = f'{kind.__name__}.Options', kind.Options
    if not (isinstance(options, type) and issubclass(options, tuple) and hasattr(options, '_field_defaults')):
        raise ArgumentTypeError(f'{about} must be a class derived from typing.NamedTuple, got {options!r}')
    if taken := sorted({*inspect.signature(ConvNd.__init__).parameters, 'replace_1x1'}.intersection(options._fields)):
        raise ArgumentError(f'{about} cannot have {taken[0]!r}, which every convolution has; give it another name')
    if required := [name for name in options._fields if name not in options._field_defaults]:
        raise ArgumentError(f'{about}: every option needs a default, {required[0]!r} has none')
    if not callable(getattr(options, 'checked', None)):
        raise ArgumentTypeError(
            f'{about} needs a method checked(), which returns the options if they are valid and raises ValueError if '
            'not; `return self` is the least'
        )


def _signature(options: type) -> inspect.Signature:
    """Return the constructor's signature with the options as keyword-only arguments in place of ``**options``."""
    _, *plain = [p for p in inspect.signature(ConvNd.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=options._field_defaults[name],
            annotation=options.__annotations__.get(name, inspect.Parameter.empty),
        )
        for name in options._fields
    ]
    return inspect.Signature([*plain, *own])


class Conv1d(ConvNd):
    """Base class of the 1-D operators.

    Example:
        >>> Conv1d(3, 8, 5).weight.shape
        torch.Size([8, 3, 5])
    """

    dims = 1
    output_padding = (0,)

    def to_conv1d(self, dense: bool = False) -> nn.Module:
        """Return a plain module that computes the same function, with its own copy of the parameters.

        Args:
            dense: return a single ``nn.Conv1d``, even where several convolutions in a row are cheaper.

        Raises:
            FoldError: if no plain convolution is equivalent.

        Example:
            >>> from mmkerv.ops import KervConv1d
            >>> type(KervConv1d(3, 8, 3, kernel='linear').to_conv1d()).__name__
            'Conv1d'
        """
        return self._fold(dense)


# mmengine's initialisers match a layer by its class name and the names of its direct bases. The direct base of each
# operator is therefore called `Conv2d`, so that a network's `init_cfg=dict(type='Kaiming', layer='Conv2d')` initialises
# the operator's `weight` like that of a plain convolution. It does not derive from `nn.Conv2d`, because mmcv's
# `fuse_conv_bn`, `efficient_conv_bn_eval` and FLOP counters use the `weight` of every `nn.Conv2d` as its kernel, which
# would give wrong results here.
class Conv2d(InitialisedAsPlain, ConvNd):
    """Base class of the 2-D operators.

    Example:
        >>> Conv2d(3, 8, (3, 5)).weight.shape
        torch.Size([8, 3, 3, 5])
    """

    dims = 2
    output_padding = (0, 0)

    def to_conv2d(self, dense: bool = False) -> nn.Module:
        """Return a plain module that computes the same function, with its own copy of the parameters.

        Args:
            dense: return a single ``nn.Conv2d``, even where several convolutions in a row are cheaper.

        Raises:
            FoldError: if no plain convolution is equivalent.

        Example:
            >>> from mmkerv.ops import CoCConv2d
            >>> op, x = CoCConv2d(4, 8, 3), torch.randn(1, 4, 5, 5)
            >>> bool(torch.equal(op.to_conv2d()(x), op(x)))
            True
        """
        return self._fold(dense)


class Conv3d(ConvNd):
    """Base class of the 3-D operators.

    Example:
        >>> Conv3d(3, 8, 3).weight.shape
        torch.Size([8, 3, 3, 3, 3])
    """

    dims = 3
    output_padding = (0, 0, 0)

    def to_conv3d(self, dense: bool = False) -> nn.Module:
        """Return a plain module that computes the same function, with its own copy of the parameters.

        Args:
            dense: return a single ``nn.Conv3d``, even where several convolutions in a row are cheaper.

        Raises:
            FoldError: if no plain convolution is equivalent.

        Example:
            >>> from mmkerv.ops import KervConv3d
            >>> type(KervConv3d(2, 4, 3, kernel='linear').to_conv3d()).__name__
            'Conv3d'
        """
        return self._fold(dense)
