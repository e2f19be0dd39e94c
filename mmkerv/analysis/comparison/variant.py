"""Variants of a network, as the command line names them: ``'coc:super_init=kaiming,where.stages=(1,2)'``."""

import ast
import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from mmkerv import ops
from mmkerv.engine.config.check import check_arguments
from mmkerv.errors import ArgumentError, ArgumentTypeError, ConfigError
from mmkerv.models.placement import Where
from mmkerv.registry import OPERATORS

PLAIN = 'plain'
WHERE, OVERRIDE = 'where.', 'cfg.'
WORDS = {'true': True, 'false': False, 'none': None}
BRACKETS = {')': '(', ']': '[', '}': '{'}
# Settings that no variant can have alone, and what to use.
_ANOTHER_LENGTH = 'would train this network for another time than the others, which cannot be compared with it; use'
REFUSED = {
    'train_cfg.max_epochs': f'{_ANOTHER_LENGTH} --epochs N, for all of them',
    'train_cfg.max_iters': f'{_ANOTHER_LENGTH} --iters N, for all of them',
    'data_root': 'has no effect: the data sets have used it already, and all networks are compared on the same data; '
    'use --cfg-options data_root=DIR',
}


class Variant(NamedTuple):
    """One network to compare: the config's own, or that with an operator.

    Args:
        spec: the text that names it.
        operator: registered name of the operator; ``None`` for the config's own network.
        options: arguments of the operator.
        where: rule that places it, see :class:`mmkerv.models.placement.Where`.
        overrides: settings of the config that this variant alone has, by dotted key.

    Example:
        >>> parse_variant('kerv:where.stages=()').where
        {'stages': ()}
    """

    spec: str
    operator: str | None = None
    options: dict[str, Any] = {}
    where: dict[str, Any] = {}
    overrides: dict[str, Any] = {}

    @property
    def folder(self) -> str:
        """Name of the variant's folder.

        Example:
            >>> parse_variant('coc:super_init=kaiming,where.stages=(1,2)').folder
            'coc-super_init=kaiming-where.stages=-1-2'
        """
        return re.sub(r'[^\w.=+]+', '-', self.spec).strip('-')


def parse_variants(specs: Sequence[str]) -> list[Variant]:
    """Parse the variants of a command line.

    Raises:
        ConfigError: naming the text, the rule and what to do; also for two variants that are the same.

    Example:
        >>> [variant.operator for variant in parse_variants(['plain', 'coc'])]
        [None, 'CoCConv']
    """
    variants = [parse_variant(spec) for spec in specs]
    known: dict[str, Variant] = {}
    for variant in variants:
        # Some file systems do not tell capital letters.
        other = known.setdefault(variant.folder.lower(), variant)
        if other is not variant:
            raise ConfigError(
                f'--operators {variant.spec!r} and {other.spec!r} would have the same folder, {variant.folder!r}; give '
                'each once'
            )
    return variants


def parse_variant(spec: str) -> Variant:
    """Parse ``OPERATOR[:KEY=VALUE[,KEY=VALUE...]]``.

    A key is an argument of the operator, ``where.`` and a part of the rule that places it, or ``cfg.`` and a dotted key
    of the config. Values are Python's: numbers, tuples, ``True``; anything else is a text.

    Raises:
        ConfigError: naming the text, the rule and what to do.

    Example:
        >>> parse_variant('coc:cfg.optim_wrapper.optimizer.type=AdamW').overrides
        {'optim_wrapper.optimizer.type': 'AdamW'}
    """
    name, _, text = spec.partition(':')
    operator = _operator(spec, name.strip())
    parts: dict[str, dict[str, Any]] = {WHERE: {}, OVERRIDE: {}, '': {}}
    for pair in _split(spec, text) if text.strip() else ():
        key, equals, value = pair.partition('=')
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f'--operators {spec!r}: {pair!r} is not KEY=VALUE; write such as coc:super_init=kaiming')
        prefix = next(prefix for prefix in parts if key.startswith(prefix))
        part, key = parts[prefix], key.removeprefix(prefix)
        if not key or key in part:
            raise ConfigError(f'--operators {spec!r}: {pair!r} gives {"no key" if not key else "a key twice"}')
        part[key] = _value(value)
    variant = Variant(spec, operator, parts[''], parts[WHERE], parts[OVERRIDE])
    _check(variant)
    return variant


@cache
def operator_names() -> dict[str, str]:
    """Return the registered names of the two-dimensional operators by their short names.

    Example:
        >>> operator_names()['coc'], operator_names()['fdconv']
        ('CoCConv', 'FDConv')
    """
    names: dict[str, str] = {}
    for name in OPERATORS:
        if not re.search(r'[13]d$', name):
            short = getattr(ops, name).short_name
            # A class derived from an operator has its short name.
            names[short if short and short not in names else name.lower().removesuffix('conv')] = name
    return names


def _operator(spec: str, name: str) -> str | None:
    if name == PLAIN:
        return None
    short = operator_names()
    known = {**{full.lower(): full for full in short.values()}, **short}
    if name.lower() in known:
        return known[name.lower()]
    near = difflib.get_close_matches(name.lower(), [PLAIN, *known], n=2, cutoff=0.6)
    hint = f'did you mean {" or ".join(map(repr, near))}? ' if near else ''
    raise ConfigError(f'--operators {spec!r}: no operator is called {name!r}; {hint}Use {PLAIN}, {", ".join(short)}')


def _split(spec: str, text: str) -> Iterator[str]:
    """Yield the parts of a text between commas that are outside brackets and quotes."""
    part, opened, quote = '', [], ''
    for letter in text:
        if quote:
            quote = '' if letter == quote else quote
        elif letter in '\'"':
            quote = letter
        elif letter in BRACKETS.values():
            opened.append(letter)
        elif letter in BRACKETS and (not opened or opened.pop() != BRACKETS[letter]):
            raise ConfigError(f'--operators {spec!r}: its brackets are not in pairs')
        elif letter == ',' and not opened:
            yield part
            part = ''
            continue
        part += letter
    if opened or quote:
        raise ConfigError(f'--operators {spec!r}: its {"quotes" if quote else "brackets"} are not in pairs')
    yield part


def _value(text: str) -> Any:
    text = text.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check(variant: Variant) -> None:
    for key, advice in REFUSED.items():
        if key in variant.overrides:
            raise ConfigError(f'--operators {variant.spec!r}: {OVERRIDE}{key} {advice}')
    if variant.operator is None:
        if own := [*variant.options, *(f'{WHERE}{key}' for key in variant.where)]:
            raise ConfigError(
                f'--operators {variant.spec!r}: {own[0]} belongs to an operator, and {PLAIN} has none; of the plain '
                f'network only {OVERRIDE}KEY=VALUE can be changed'
            )
        return
    try:
        Where.of(variant.where)
        check_arguments(variant.operator, variant.options)
    except (ArgumentError, ArgumentTypeError) as error:
        raise ConfigError(f'--operators {variant.spec!r}: {error}') from error
