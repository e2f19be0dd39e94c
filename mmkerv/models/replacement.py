"""Look up the operator of a ``conv_cfg``, and build the layer that replaces one plain convolution."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.utils import _pair

from mmkerv import ops
from mmkerv.distributions import importable
from mmkerv.errors import ArgumentError, ArgumentTypeError, EvenKernelError
from mmkerv.models.adaptive_padding import is_adaptive, pad_adaptively
from mmkerv.operator_table import is_own, operator_name, own_operators
from mmkerv.ops.core.arguments import did_you_mean, reject_from_network
from mmkerv.ops.core.base import NoOptions, has_hooks


class Operator(NamedTuple):
    """Builder of the layers of a ``conv_cfg``.

    Args:
        build: class or function with the arguments of ``nn.Conv2d``.
        options: further arguments of the layers.
        name: name in messages.

    Example:
        >>> Operator.of(dict(type='mmkerv.CoCConv', association=3))[1:]
        ({'association': 3}, 'CoCConv')
    """

    build: Callable[..., nn.Module]
    options: dict[str, Any]
    name: str

    @classmethod
    def of(cls, conv_cfg: dict) -> 'Operator':
        """Look up the ``type`` of ``conv_cfg``: a class or partial, an operator of mmkerv, or a registered one.

        Raises:
            TypeError: if ``conv_cfg`` is not a dict with a ``type``.
            ValueError: if nothing is registered under that name, or it is not a convolution.

        Example:
            >>> Operator.of(dict(type=nn.Conv2d)).name
            'Conv2d'
        """
        if not isinstance(conv_cfg, dict) or 'type' not in conv_cfg:
            raise ArgumentTypeError(
                f"conv_cfg must be a dict with a 'type', such as dict(type='CoCConv'), got {conv_cfg!r}"
            )
        options = copy.deepcopy(dict(conv_cfg))
        kind = options.pop('type')
        if not isinstance(kind, str):
            if not callable(kind):
                raise ArgumentTypeError(f'conv_cfg type must be a name, a class or a function, got {kind!r}')
            return cls(kind, options, getattr(_named(kind), '__name__', str(_named(kind))))
        name, operators = kind.rpartition('.')[2], _operators()
        # A class of a user's module, as mmengine writes it, stands for the operator.
        if is_own(own := operator_name(kind) or ''):
            name = kind = own
        # 'CoCConv', 'mmkerv.CoCConv', or 'mmkerv.ops.CoCConv', as mmengine writes a class.
        if name in operators and kind.partition('.')[0] in (name, 'mmkerv'):
            reject_from_network(name, options, own_arguments(operators[name]))
            return cls(operators[name], options, name)
        registered = registered_convolution(kind)
        if inspect.isclass(registered) and issubclass(registered, nn.Conv2d):
            return cls(registered, options, kind)
        if registered is None:
            reason = 'not registered with mmengine'
        else:
            reason = f'registered with mmengine as {getattr(registered, "__name__", registered)}, which is no nn.Conv2d'
        raise ArgumentError(
            f'conv_cfg type {kind!r} is not an operator of mmkerv and {reason}{did_you_mean(name, operators)} Use one '
            f"of {', '.join(operators)}, a registered convolution such as mmcv's ConvWS, or pass the class"
        )

    @property
    def always_plain(self) -> bool:
        """Return whether the layers are plain convolutions, so that convolutions of the same shape may be kept.

        Example:
            >>> Operator.of(dict(type='FoldedConv')).always_plain
            True
        """
        return self.build in (nn.Conv2d, ops.FoldedConv)

    @property
    def takes_1x1(self) -> bool:
        """Return whether the operator replaces 1x1 convolutions unless ``where`` says otherwise.

        Example:
            >>> [Operator.of(dict(type=name)).takes_1x1 for name in ('CoCConv', 'FDConv')]
            [False, True]
        """
        return bool(getattr(_named(self.build), 'takes_1x1', False))

    @property
    def advice_for_plain(self) -> str:
        """Advice on replacing a layer that the operator leaves plain, for messages.

        Example:
            >>> Operator.of(dict(type='CoCConv')).advice_for_plain
            ', or set replace_1x1=True'
        """
        known = inspect.signature(self.build).parameters
        return next((f', or set {name}=True' for name in ('replace_1x1', 'replace_all') if name in known), '')

    def replacement(self, name: str, conv: nn.Conv2d) -> nn.Module | None:
        """Build the layer that replaces a plain convolution; parameters of the same shape are shared with it.

        Args:
            name: of ``conv``, for messages.
            conv: ``nn.Conv2d``, or mmcv's ``Conv2dAdaptivePadding``, whose padding the new layer then has.

        Returns:
            The layer, or ``None`` if the operator leaves the convolution as it is.

        Raises:
            ValueError: if the operator does not exist in the convolution's shape, which the message names.
            TypeError: for an unknown option.

        Example:
            >>> print(Operator.of(dict(type='CoCConv')).replacement('conv', nn.Conv2d(3, 8, 1)))
            None
        """
        try:
            new = self._built(conv, conv.kernel_size)
        except (ValueError, TypeError) as error:
            kind = ArgumentTypeError if isinstance(error, TypeError) else ArgumentError
            shape = f'{size(conv)}, {conv.in_channels} -> {conv.out_channels} channels, groups={conv.groups}'
            if isinstance(error, EvenKernelError):
                advice = "; where=dict(kernel_sizes='>1') leaves it plain, unless where.names asks for it alone"
            else:
                advice = '' if 'where' in str(error) else '; where can leave this layer out'
            raise kind(f'{name} ({shape}): {error}{advice}') from error
        # Of a folded layer only the bias may be new, that of the norms inside the operator.
        has_same_bias = (getattr(new, 'bias', None) is None) == (conv.bias is None)
        if type(new) is nn.Conv2d and new.kernel_size == conv.kernel_size and has_same_bias:
            return None
        if is_adaptive(conv):
            new = pad_adaptively(new, conv.padding)
        if hasattr(new, 'reset_operator_parameters'):
            new.reset_operator_parameters()
        new.to(device=conv.weight.device, dtype=conv.weight.dtype).requires_grad_(conv.weight.requires_grad)
        for parameter in ('weight', 'bias'):
            if getattr(getattr(new, parameter, None), 'shape', None) == getattr(getattr(conv, parameter), 'shape', 0):
                setattr(new, parameter, getattr(conv, parameter))
        return new.train(conv.training)

    def lacks_even_size(self, conv: nn.Conv2d) -> bool:
        """Return whether the operator cannot have the shape of ``conv`` because its kernel is of even size.

        Example:
            >>> Operator.of(dict(type='CoCConv')).lacks_even_size(nn.Conv2d(3, 8, 4))
            True
        """
        if all(k % 2 for k in conv.kernel_size):
            return False
        try:
            self._built(conv, tuple(k if k % 2 else max(k - 1, 3) for k in conv.kernel_size))
        except (ValueError, TypeError):
            return False
        return True

    def _built(self, conv: nn.Conv2d, kernel_size: tuple[int, int]) -> nn.Module:
        """Build the layer with the arguments of ``conv`` but a kernel size of its own, on the CPU."""
        geometry = {key: getattr(conv, key) for key in ('stride', 'padding', 'dilation', 'groups')}
        if is_adaptive(conv) or kernel_size != conv.kernel_size:
            # Centred, which an operator with a kernel_extent requires; the caller replaces it, or only tries the size.
            geometry['padding'] = tuple(d * (k - 1) // 2 for d, k in zip(_pair(conv.dilation), kernel_size))
        if conv.padding_mode != 'zeros':
            geometry['padding_mode'] = conv.padding_mode
        # The constructor draws a weight that is discarded: it must not consume the caller's random numbers, which
        # reset_operator_parameters does. No `device=`: a registered convolution need not have it.
        with torch.random.fork_rng(devices=[]), torch.device('cpu'):
            return self.build(
                conv.in_channels, conv.out_channels, kernel_size, bias=conv.bias is not None, **geometry, **self.options
            )


def _named(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return the class or function inside ``functools.partial``."""
    return build.func if isinstance(build, functools.partial) else build


def _operators() -> dict[str, type]:
    """Return the operators by name: the classes of :mod:`mmkerv.ops`, and those that users registered."""
    exported = {name: getattr(ops, name) for name in ops.__all__} | own_operators()
    return {name: kind for name, kind in exported.items() if hasattr(kind, 'deploy_cfg') or kind is ops.FoldedConv}


def own_arguments(kind: type) -> tuple[str, ...]:
    """Return the names of the arguments that a class of operators has beside those of torch's convolutions.

    Example:
        >>> own_arguments(ops.WeightedConv)
        ('replace_1x1', 'density', 'learnable', 'rescale')
    """
    return (*getattr(kind, 'keywords', ()), *getattr(getattr(kind, 'operator', kind), 'Options', NoOptions)._fields)


def registered_convolution(kind: str) -> Any:
    """Look a name up as mmcv's ``build_conv_layer`` does, in the current default scope; ``None`` if it is unknown.

    Example:
        >>> print(registered_convolution('NoConv'))
        None
    """
    if not importable('mmengine'):
        return None
    from mmengine.registry import MODELS

    from mmkerv.registry import import_mmcv

    import_mmcv()
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def is_plain(conv: nn.Conv2d) -> bool:
    """Return whether a convolution may be replaced: no subclass that behaves differently, no hooks.

    Example:
        >>> is_plain(nn.Conv2d(3, 8, 3)), is_plain(nn.LazyConv2d(8, 3))
        (True, False)
    """
    return peculiarity(conv) is None


def peculiarity(conv: nn.Conv2d) -> str | None:
    """Return what a convolution has that its replacement would lose, or ``None``.

    Example:
        >>> print(peculiarity(nn.Conv2d(3, 8, 3)), peculiarity(nn.LazyConv2d(8, 3)))
        None LazyConv2d
    """
    kind = type(conv)
    wrapper = kind.__name__ == 'Conv2d' and kind.__module__ == 'mmcv.cnn.bricks.wrappers'
    if not (kind is nn.Conv2d or wrapper or is_adaptive(conv)):
        return kind.__name__
    if not isinstance(conv.weight, nn.Parameter):
        return f'{kind.__name__} with a computed weight'
    if has_hooks(conv):
        return f'{kind.__name__} with hooks'
    return None


def size(conv: nn.Conv2d) -> str:
    """Return the kernel size of a convolution, with its class if it is not plain.

    Example:
        >>> size(nn.Conv2d(3, 8, (1, 7)))
        '1x7'
    """
    text, special = 'x'.join(map(str, conv.kernel_size)), peculiarity(conv)
    return text if special is None else f'{text} {special}'
