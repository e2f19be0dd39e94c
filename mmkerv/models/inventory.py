"""Inventory of a built network: which of its convolutions are operators, which are plain, and why.

Whatever road led there counts alike: ``conv_cfg`` in a config of upstream, ``mmkerv.ResNet`` and its like,
``mmkerv.Converted``, :func:`mmkerv.convert`, networks built of operators, plugins of stages.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import nn

from mmkerv.models.kept_layers import KEPT_LAYERS, kept_by
from mmkerv.models.replacement import peculiarity, size
from mmkerv.operator_table import operator_class, operator_name
from mmkerv.ops.core.adapter import adapter_of
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.ops.core.starting_point import starting_point

PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
# Why a convolution is plain.
ONE_BY_ONE, EVEN, LEFT_OUT, HOOKED = '1x1', 'of even size', 'left out by where', 'with hooks'
NOT_REACHED = 'without conv_cfg'
# Names of layers in one line, at most.
NAMES = 2

# Why a conversion left a convolution plain, where the network does not tell it.
_reasons: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def note_kept(convs: Iterable[nn.Module], reason: str) -> None:
    """Note why a conversion left convolutions plain, for :func:`inventory`.

    Args:
        convs: the convolutions.
        reason: ``EVEN``, ``LEFT_OUT`` or ``HOOKED``.

    Example:
        >>> from mmkerv import ops
        >>> model = nn.Sequential(ops.CoCConv2d(3, 8, 3), nn.Conv2d(8, 8, 4))
        >>> note_kept([model[1]], EVEN)
        >>> inventory(model).kept['1'].reason
        'of even size'
    """
    _reasons.update(dict.fromkeys(convs, reason))


class Kept(NamedTuple):
    """Plain convolution of a network with operators.

    Args:
        conv: the convolution.
        reason: why it is plain, in words.

    Example:
        >>> Kept(nn.Conv2d(3, 8, 1), ONE_BY_ONE).reason
        '1x1'
    """

    conv: nn.Module
    reason: str


class Inventory(NamedTuple):
    """Convolutions of a network; a shared one counts once, and what is inside an operator belongs to it.

    Args:
        operators: operators by name.
        kept: plain convolutions by name: torch's of as many dimensions as the operators, and subclasses.
        plugins: number of plugins by class.
        adapted: number of layers with orthogonal adapters.

    Example:
        >>> from mmkerv import ops
        >>> model = nn.Sequential(ops.CoCConv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 3))
        >>> print(inventory(model))
        1 of 3 convolutions -> CoCConv (3x3: 1); kept 1 1x1, 1 without conv_cfg (2)
        >>> print(inventory(nn.Sequential(nn.Conv2d(3, 8, 3))))
        no operators; 1 plain convolution (3x3: 1)
    """

    operators: dict[str, ConvNd]
    kept: dict[str, Kept]
    plugins: dict[str, int]
    adapted: int = 0

    def by_operator(self) -> dict[str, dict[str, ConvNd]]:
        """Return the operators by the name that configs have for their class.

        Example:
            >>> from mmkerv import ops
            >>> list(inventory(nn.Sequential(ops.KervConv2d(3, 8, 3))).by_operator())
            ['KervConv']
        """
        found: dict[str, dict[str, ConvNd]] = {}
        for name, operator in self.operators.items():
            found.setdefault(config_name(operator), {})[name] = operator
        return dict(sorted(found.items()))

    def by_reason(self) -> dict[str, dict[str, nn.Module]]:
        """Return the plain convolutions by the reason why they are plain.

        Example:
            >>> from mmkerv import ops
            >>> list(inventory(nn.Sequential(ops.CoCConv2d(3, 8, 3), nn.Conv2d(8, 8, 1))).by_reason())
            ['1x1']
        """
        found: dict[str, dict[str, nn.Module]] = {}
        for name, (conv, reason) in self.kept.items():
            found.setdefault(reason, {})[name] = conv
        return found

    def starts(self) -> dict[str, str]:
        """Return how the operators start, by the name of their class; several ways are joined.

        Example:
            >>> from mmkerv import ops
            >>> inventory(nn.Sequential(ops.CoCConv2d(3, 8, 3), ops.CKConv2d(8, 8, 3))).starts()
            {'CKConv': 'with random kernels', 'CoCConv': 'as the plain convolution'}
        """
        return {kind: _joined_starts(layers.values()) for kind, layers in self.by_operator().items()}

    def as_dict(self) -> dict[str, Any]:
        """Return names by operator and by reason, and the ways to start, for a JSON file.

        Example:
            >>> from mmkerv import ops
            >>> inventory(nn.Sequential(ops.CoCConv2d(3, 8, 3), nn.Conv2d(8, 8, 1))).as_dict()['kept']
            {'1x1': ['1']}
        """
        return {
            'operators': {kind: list(layers) for kind, layers in self.by_operator().items()},
            'kept': {reason: list(convs) for reason, convs in self.by_reason().items()},
            'plugins': self.plugins,
            'adapted': self.adapted,
            'starts': self.starts(),
        }

    def __str__(self) -> str:
        total = len(self.operators) + len(self.kept)
        if not total:
            text = 'no convolutions'
        elif not self.operators:
            convs = [kept.conv for kept in self.kept.values()]
            text = f'no operators; {total} plain convolution{"s" * (total > 1)} ({sizes(convs)})'
        else:
            kinds = self.by_operator()
            # The parts of a detector, segmentor or classifier; of a single network, the kernel sizes.
            has_parts = any(name.startswith('backbone.') for name in (*self.operators, *self.kept))
            # Of a single kind, its number is the first one of the line.
            numbers = {kind: f'{len(layers)} ' if len(kinds) > 1 else '' for kind, layers in kinds.items()}
            listed = [
                f'{numbers[kind]}{kind} ({_parts(layers) if has_parts else sizes(layers.values())})'
                for kind, layers in kinds.items()
            ]
            kept = [_described(reason, convs) for reason, convs in self.by_reason().items()]
            text = f'{len(self.operators)} of {total} convolutions -> {", ".join(listed)}; kept '
            text += ', '.join(kept) or 'none'
        extras = [f'{count} {kind}' for kind, count in self.plugins.items()]
        if self.adapted:
            extras.append(f'orthogonal adapters on {self.adapted} layers')
        return '; '.join([text, *extras])


def inventory(model: nn.Module) -> Inventory:
    """Look at a built network and say what its convolutions are.

    A plain convolution of a network with operators is so because its class computes something else or it is inside a
    layer that is kept whole, because no operator of the network takes its shape (1x1 with most), because a conversion
    left it out (``where``, even sizes), or because no ``conv_cfg`` reached it. Linear layers and transposed
    convolutions are not counted.

    Args:
        model: any network, bare.

    Example:
        >>> from mmkerv import ops
        >>> model = nn.Sequential(ops.KervConv2d(3, 8, 3), nn.Conv2d(8, 8, 1))
        >>> inventory(model).kept['1'].reason
        'without conv_cfg'
    """
    modules = dict(model.named_modules())
    # What an operator is made of, operators included, is a part of it.
    parts = {part for m in modules.values() if isinstance(m, ConvNd) for part in m.modules() if part is not m}
    operators = {name: m for name, m in modules.items() if isinstance(m, ConvNd) and m not in parts}
    kinds = tuple(PLAIN[dims] for dims in sorted({operator.dims for operator in operators.values()} or {2}))
    convs = {name: m for name, m in modules.items() if isinstance(m, kinds) and m not in parts}
    holders = {conv: type(modules[name]).__name__ for conv, name in kept_by(model).items()}
    classes = list(dict.fromkeys(map(_config_class, operators.values())))
    return Inventory(
        operators,
        {name: Kept(conv, _reason(conv, holders.get(conv), classes)) for name, conv in convs.items()},
        dict(Counter(type(m).__name__ for m in modules.values() if type(m).__name__ in KEPT_LAYERS['mmkerv'])),
        sum(1 for m in (*operators.values(), *convs.values()) if adapter_of(m) is not None),
    )


def config_name(operator: ConvNd) -> str:
    """Return the name that configs have for the class of an operator.

    Example:
        >>> from mmkerv import ops
        >>> config_name(ops.CoCConv2d(3, 8, 3)), config_name(ops.CKConv1d(3, 8, 3))
        ('CoCConv', 'CKConv1d')
    """
    kind = _class(operator)
    return operator_name(kind) or kind.__name__


def sizes(convs: Iterable[nn.Module]) -> str:
    """Return the number of convolutions of each kernel size, largest first.

    Example:
        >>> sizes([nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)])
        '3x3: 2, 1x1: 1'
    """
    # The class says more of a plain convolution than of an operator, which the line names anyway.
    texts = [
        (conv, size(conv) if isinstance(conv, nn.Conv2d) else 'x'.join(map(str, conv.kernel_size))) for conv in convs
    ]
    counts = Counter((-math.prod(conv.kernel_size), text) for conv, text in texts)
    return ', '.join(f'{text}: {count}' for (_, text), count in sorted(counts.items()))


def _reason(conv: nn.Module, holder: str | None, classes: list[type]) -> str:
    if holder is not None:
        return f'inside {holder}'
    # Hooks may be those of the run that asks.
    special = peculiarity(conv) if isinstance(conv, nn.Conv2d) and adapter_of(conv) is None else None
    if special and not special.endswith(HOOKED):
        return f'of class {special}'
    if classes and all(_leaves_plain(kind, conv) for kind in classes):
        names = ' or '.join(kind.__name__.removesuffix('2d') for kind in classes)
        return ONE_BY_ONE if max(conv.kernel_size) == 1 else f'that {names} leaves plain'
    return _reasons.get(conv, NOT_REACHED)


def _class(operator: ConvNd) -> type:
    """Return the class of an operator without what parametrizations and initialisers make of it."""
    kind = type(operator)
    return next((k for k in kind.__mro__ if operator_name(k)), kind)


def _config_class(operator: ConvNd) -> type:
    """Return the class that configs name for an operator, or its own one."""
    kind = _class(operator)
    name = operator_name(kind)
    return operator_class(name) if name else kind


def _leaves_plain(kind: type, conv: nn.Module) -> bool:
    shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.groups)
    if issubclass(kind, ConfigClass):
        return kind.leaves_plain(*shape)
    return kind.leaves_plain(conv.in_channels, conv.kernel_size, conv.groups)


def _parts(layers: Iterable[str]) -> str:
    counts = Counter(name.partition('.')[0] for name in layers)
    return ', '.join(f'{part} {count}' for part, count in counts.items())


def _described(reason: str, convs: Mapping[str, nn.Module]) -> str:
    text = f'{len(convs)} {reason}'
    if reason == EVEN:
        return f'{text} ({", ".join(dict.fromkeys(map(size, convs.values())))})'
    if reason == NOT_REACHED:
        # A name to look for, not all of them.
        places = list(dict.fromkeys('.'.join(name.split('.')[:2]) for name in convs))
        return f'{text} ({", ".join(places[:NAMES])}{", ..." * (len(places) > NAMES)})'
    return text


def _joined_starts(operators: Iterable[ConvNd]) -> str:
    counts = Counter(map(starting_point, operators))
    if len(counts) == 1:
        return next(iter(counts))
    return ', '.join(f'{count} {way}' for way, count in counts.items())
