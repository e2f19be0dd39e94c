"""List the operators and kernels, and describe one: its equation, arguments, folding, cost and source.

Everything is read from the operator's class and its docstring when it is asked for.
"""

import inspect
import re
import textwrap
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmkerv import ops
from mmkerv.errors import ArgumentError
from mmkerv.operator_table import OPERATORS, operator_class, operator_name
from mmkerv.ops.core.arguments import did_you_mean
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.config_class import ConfigClass
from mmkerv.ops.core.starting_point import starting_point
from mmkerv.ops.kerv.registry import KERNELS

# The layer whose cost is given: channels in and out, and along each axis the input's size and the kernel's, the first
# that the operator takes.
CHANNELS, INPUT, SIZES = 64, 16, (3, 5)
WIDTH = 100
# How the docstring of a class in configs begins.
NAMED = 'Class to name in configs: '
# TeX's commands in the equations that are no Greek letters.
SYMBOLS = {'sum': 'Σ', 'cdot': '·', 'odot': '⊙', 'ldots': '...'}


class Cost(NamedTuple):
    """Cost of a layer in the operator's default form, and of the plain convolution of the same shape.

    Args:
        layer: which layer.
        parameters: number of parameters.
        products: multiply-adds of an image, those that generate the kernel included; elementwise functions and Fourier
            transforms are not counted.
        plain_parameters: number of parameters of the plain convolution.
        plain_products: its multiply-adds.

    Example:
        >>> Cost('3x3', 20, 100, 10, 100).parameters
        20
    """

    layer: str
    parameters: int
    products: int
    plain_parameters: int
    plain_products: int

    def __str__(self) -> str:
        return (
            f'{self.parameters:,} parameters ({self.parameters / self.plain_parameters:.2f} of the plain layer), '
            f'{self.products:,} multiply-adds ({self.products / self.plain_products:.2f}), for {self.layer}'
        )


class Description:
    """What there is to know about an operator before it is used; printing it shows all.

    Args:
        name: registered name.

    Attributes:
        summary: what it is.
        equation: what it computes, in TeX.
        arguments: its own arguments, beside those of torch's convolutions: default, and what it means.
        folds: into what it folds.
        takes_1x1: whether it also replaces 1x1 convolutions.
        has_weight: whether it has the kernel of the plain convolution as ``weight``.
        starts: how a fresh layer starts, with the defaults.
        rules: what the tools' optimizer does otherwise with its parameters; empty if nothing.
        cost: of one layer.
        source: paper and section; empty for textbook operators.
        example: line of a config.

    Raises:
        ValueError: if there is no such operator, with the name that was probably meant.

    Example:
        >>> Description('dcls').arguments['version'][0], Description('DCLSConv').folds
        ("'v0'", 'into one plain convolution')
    """

    def __init__(self, name: Any) -> None:
        self.name = find_operator(name)
        named = operator_class(self.name)
        operator = getattr(named, 'operator', named)
        text = docstring(operator)
        # The forms for sequences and volumes refer to that for images.
        referred = re.search(r'as in :class:`(\w+)`', text)
        other = getattr(ops, referred[1], None) if referred else None
        full = text if other is None or ':math:' in text else docstring(other)
        # A class such as FlexConv is another with other defaults, and says which.
        is_variant = any(base.__name__ in OPERATORS for base in named.__bases__)
        self.summary = plain((docstring(named) if is_variant else text).partition('\n')[0]).removeprefix(NAMED)
        self.equation = _paragraph(full, r':math:')
        self.source = _paragraph(docstring(named), '^Source: ') or _paragraph(full, '^Source: ')
        self.source = self.source.removeprefix('Source: ')
        meanings = {**_meanings(full), **_meanings(docstring(named))}
        self.arguments = {key: (repr(value), meanings.get(key, '')) for key, value in _defaults(named).items()}
        self.folds = operator.folds
        self.takes_1x1 = operator.takes_1x1
        self.has_weight = operator.has_weight
        found = sample(named)
        self.starts = starting_point(found.layer) if found else ''
        self.rules = rules(operator)
        self.cost = cost(named)
        self.example = f"conv_cfg=dict(type='mmkerv.{self.name}')"

    def __str__(self) -> str:
        lines = [*textwrap.wrap(f'{self.name}: {self.summary or "its class has no docstring"}', WIDTH), '']
        lines += _wrapped(f'equation   {without_tex(self.equation)}') if self.equation else []
        lines.append('arguments, beside those of the convolution it replaces' if self.arguments else 'arguments  none')
        for name, (default, meaning) in self.arguments.items():
            lines += textwrap.wrap(
                f'{name}={default}  {without_tex(meaning)}', WIDTH, initial_indent='  ', subsequent_indent=' ' * 6
            )
        rows = {
            'folds': self.folds,
            '1x1 layers': 'are replaced too' if self.takes_1x1 else 'stay plain',
            'weights': 'a plain checkpoint loads by name' if self.has_weight else 'none of the plain layer is kept',
            'start': self.starts,
            'optimizer': self.rules,
            'cost': self.cost or 'not counted for a layer of this shape',
            'source': self.source,
            'config': self.example,
        }
        return '\n'.join([*lines, *(line for key, row in rows.items() if row for line in _wrapped(f'{key:<11}{row}'))])

    __repr__ = __str__


def list_operators() -> list[str]:
    """Return the names of all operators, as configs have them, those that were registered by the user included.

    Example:
        >>> list_operators()[:3]
        ['CKConv', 'CKConv1d', 'CoCConv']
    """
    return sorted(OPERATORS)


def list_kernels() -> list[str]:
    """Return the names of the kernels of kervolution, those that were registered by the user included.

    Example:
        >>> 'gaussian' in list_kernels()
        True
    """
    return sorted(KERNELS)


def describe(name: Any) -> Description:
    """Describe an operator: equation, arguments with defaults, folding, cost, source, config.

    Args:
        name: name as configs have it, with or without ``mmkerv.``, short name such as ``'dcls'``, or the class.

    Returns:
        A description, which prints as text.

    Raises:
        ValueError: if there is no such operator, with the name that was probably meant.

    Example:
        >>> print(str(describe('WeightedConv')).splitlines()[0])
        WeightedConv: Weighted convolution: conv2d with a kernel whose taps are multiplied by a density.
    """
    return Description(name)


def find_operator(name: Any) -> str:
    """Return the name of an operator as configs have it.

    Args:
        name: as for :func:`describe`.

    Raises:
        ValueError: if there is none, with the name that was probably meant.

    Example:
        >>> find_operator('mmkerv.CoCConv'), find_operator('coc'), find_operator('CoCConv2d')
        ('CoCConv', 'CoCConv', 'CoCConv')
    """
    if registered := operator_name(name):
        return registered
    text = name if isinstance(name, str) else getattr(name, '__name__', str(name))
    last = text.rpartition('.')[2]
    names = list_operators()
    shorts = {known: operator_class(known).short_name for known in reversed(names)}
    short = {spelt: known for known, spelt in shorts.items() if spelt}
    for spelt in (last, last.removesuffix('2d')):
        if spelt in names:
            return spelt
    if last in short:
        return short[last]
    raise ArgumentError(
        f'mmkerv has no operator {text!r}{did_you_mean(last, [*names, *short])} It has: {", ".join(names)}'
    )


def docstring(kind: type) -> str:
    """Return the docstring of a class without indentation; that of a user's operator may be empty.

    Example:
        >>> docstring(ops.CoCConv).partition(' ')[0]
        'Class'
    """
    return inspect.cleandoc(kind.__doc__ or '')


def plain(text: str) -> str:
    r"""Return a text of a docstring without its markup.

    Example:
        >>> plain('``conv2d`` with :math:`K_1` of :class:`CoCConv2d`')
        'conv2d with K_1 of CoCConv2d'
    """
    return re.sub(r':\w+:`([^`]*)`', r'\1', text).replace('``', '').replace('`', '')


def without_tex(equation: str) -> str:
    r"""Return an equation in the letters of a terminal; subscripts stay as TeX has them.

    Example:
        >>> without_tex(r'y = \mathrm{conv2d}(x, K) with K = \sum_j \kappa(x_j)\, W \odot a')
        'y = conv2d(x, K) with K = Σ_j κ(x_j) W ⊙ a'
    """
    text = re.sub(r'\\mathrm\{([^{}]*)\}', r'\1', equation).replace(r'\,', ' ').replace(r'\|', '‖')
    return ' '.join(re.sub(r'\\([A-Za-z]+)', _symbol, text).split())


def _symbol(command: re.Match) -> str:
    word = command[1]
    size = 'CAPITAL' if word[0].isupper() else 'SMALL'
    with suppress(KeyError):
        return unicodedata.lookup(f'GREEK {size} LETTER {word.upper()}')
    # What has no symbol here is a word, such as min.
    return SYMBOLS.get(word, word)


def _paragraph(text: str, pattern: str) -> str:
    """Return the first paragraph of a docstring that a pattern is found in, in one line."""
    found = (part for part in re.split(r'\n\s*\n', text) if re.search(pattern, part))
    return plain(' '.join(next(found, '').split()))


def _meanings(text: str) -> dict[str, str]:
    """Return the first sentence on each argument of a docstring."""
    section = re.search(r'^Args:\n((?:[ ]+.*\n|\n)+)', text + '\n', re.MULTILINE)
    found = {}
    for entry in re.split(r'\n(?= {4}\S)', section[1].rstrip()) if section else ():
        names, _, meaning = ' '.join(entry.split()).partition(': ')
        sentence = re.split(r'(?<=\w)[.;] ', plain(meaning))[0].rstrip('.')
        found |= dict.fromkeys(names.replace('*', '').split(', '), sentence)
    return found


def _defaults(named: type) -> dict[str, Any]:
    """Return the operator's own arguments with their defaults; those of the class in configs count."""
    operator = getattr(named, 'operator', named)
    defaults = dict(operator.Options._field_defaults)
    for constructor in (operator.__init__, *((named.__new__,) if issubclass(named, ConfigClass) else ())):
        for parameter in inspect.signature(constructor).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                defaults[parameter.name] = parameter.default
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in defaults.items()}


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent=' ' * 11)


class Sample(NamedTuple):
    """A small layer of an operator, in its default form.

    Args:
        layer: the layer.
        plain: the plain convolution of its shape.
        x: an input.
        text: which layer it is.

    Example:
        >>> sample(ops.CoCConv).text
        '64 -> 64 channels, 3x3, 16 pixels a side'
    """

    layer: nn.Module
    plain: nn.Module
    x: torch.Tensor
    text: str


def sample(kind: type) -> Sample | None:
    """Build a layer, dense or, where the operator has no such layer, depthwise; the global random numbers stay.

    Returns:
        ``None`` if the operator has neither.

    Example:
        >>> sample(ops.ShiftwiseConv).text.partition(',')[0]
        'depthwise'
    """
    dims = getattr(kind, 'operator', kind).dims
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    # A causal layer pads by itself, and small kernels stay plain where they would be stacked.
    for size, groups, pads in product(SIZES, (1, CHANNELS), (True, False)):
        shape, padding = (CHANNELS, CHANNELS, size), size // 2
        with torch.random.fork_rng(devices=[]):
            try:
                layer = kind(*shape, padding=padding if pads else 0, groups=groups)
            except ValueError:
                continue
            if type(layer) is convolution:
                continue
            plain_layer = convolution(*shape, padding=padding, groups=groups)
        size = 'x'.join([str(size)] * dims)
        text = f'{"depthwise, " if groups > 1 else ""}{CHANNELS} -> {CHANNELS} channels, {size}, {INPUT} pixels a side'
        return Sample(layer, plain_layer, torch.zeros(1, CHANNELS, *(INPUT,) * dims), text)
    return None


@torch.no_grad()
def cost(kind: type) -> Cost | None:
    """Count parameters and multiply-adds of a layer.

    Returns:
        The cost, or ``None`` if :func:`sample` has no layer.

    Example:
        >>> cost(ops.CondConv).parameters > cost(ops.CondConv).plain_parameters
        True
    """
    found = sample(kind)
    if found is None:
        return None
    return Cost(found.text, *_count(found.layer, found.x), *_count(found.plain, found.x))


def rules(kind: type[ConvNd]) -> str:
    """Return what the tools' optimizer does with parameters of an operator, unless the config says otherwise.

    Example:
        >>> rules(ops.DCLSConv2d), rules(ops.CondConv2d)
        ('no weight decay: positions, width; learning rate: positions x5', '')
    """
    parts = []
    if kind.no_decay:
        parts.append(f'no weight decay: {", ".join(kind.no_decay)}')
    if kind.lr_mult:
        parts.append('learning rate: ' + ', '.join(f'{name} x{factor:g}' for name, factor in kind.lr_mult.items()))
    if kind.norm_parameters:
        parts.append(f'as norms: {", ".join(kind.norm_parameters)}')
    return '; '.join(parts)


def training_table() -> str:
    """Return how each operator trains as a table in Markdown: start, rules of the optimizer, 1x1 layers.

    Example:
        >>> print(training_table().splitlines()[0])
        | operator | starts | optimizer | 1x1 layers |
    """
    rows = ['| operator | starts | optimizer | 1x1 layers |', '|---|---|---|---|']
    for name in list_operators():
        found = describe(name)
        own = found.rules or 'as the plain weights'
        layers = 'are replaced too' if found.takes_1x1 else 'stay plain'
        rows.append(f'| `{name}` | {found.starts} | {own} | {layers} |')
    return '\n'.join(rows)


def _count(layer: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter:
        layer.eval()(x)
    # torch counts two operations for a multiply-add.
    return sum(p.numel() for p in layer.parameters()), counter.get_total_flops() // 2
