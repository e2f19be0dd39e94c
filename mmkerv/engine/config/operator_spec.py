"""An operator and the rule that places it, as the command line names them: ``'coc:where.stages=(1,2)'``."""

import ast
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmkerv.engine.config.check import check_arguments
from mmkerv.errors import ArgumentError, ArgumentTypeError, ConfigError
from mmkerv.models.placement import Where
from mmkerv.operator_table import OPERATORS, operator_class

PLAIN = 'plain'
WHERE, OVERRIDE = 'where.', 'cfg.'
WORDS = {'true': True, 'false': False, 'none': None}
BRACKETS = {')': '(', ']': '[', '}': '{'}


class OperatorSpec(NamedTuple):
    """An operator for a whole model.

    Args:
        spec: the text that names it.
        operator: registered name of the operator; ``None`` for the config's own network.
        options: arguments of the operator.
        where: rule that places it, see :class:`mmkerv.models.placement.Where`.
        overrides: settings of the config that belong to it, by dotted key.

    Example:
        >>> parse_operator('kerv:where.stages=()').where
        {'stages': ()}
    """

    spec: str
    operator: str | None = None
    options: dict[str, Any] = {}
    where: dict[str, Any] = {}
    overrides: dict[str, Any] = {}


def parse_operator(spec: str, where: Sequence[str] = (), flag: str = '--operator') -> OperatorSpec:
    """Parse ``OPERATOR[:KEY=VALUE[,KEY=VALUE...]]``.

    A key is an argument of the operator, ``where.`` and a part of the rule that places it, or ``cfg.`` and a dotted key
    of the config. Values are Python's: numbers, tuples, ``True``; anything else is a text.

    Args:
        spec: the text.
        where: further parts of the rule, each ``KEY=VALUE``, as ``--where`` takes them.
        flag: flag that the text was given to, for messages.

    Raises:
        ConfigError: naming the text, the rule and what to do.

    Example:
        >>> parse_operator('coc:super_init=kaiming', ['stages=2,3'])[1:4]
        ('CoCConv', {'super_init': 'kaiming'}, {'stages': (2, 3)})
    """
    about = f'{flag} {spec!r}'
    name, _, text = spec.partition(':')
    operator = _operator(about, name.strip())
    parts: dict[str, dict[str, Any]] = {WHERE: {}, OVERRIDE: {}, '': {}}
    for pair in _split(about, text) if text.strip() else ():
        key, value = _pair(pair, about, 'coc:super_init=kaiming')
        prefix = next(prefix for prefix in parts if key.startswith(prefix))
        _set(parts[prefix], key.removeprefix(prefix), value, pair, about)
    for pair in where:
        about_where = f'{about} --where {pair!r}'
        key, value = _pair(pair, about_where, '--where stages=2,3 stem=False')
        _set(parts[WHERE], key.removeprefix(WHERE), value, pair, about_where)
    parsed = OperatorSpec(spec, operator, parts[''], parts[WHERE], parts[OVERRIDE])
    _check(parsed, about)
    return parsed


def operator_names() -> dict[str, str]:
    """Return the registered names of the two-dimensional operators by their short names.

    Example:
        >>> operator_names()['coc'], operator_names()['fdconv']
        ('CoCConv', 'FDConv')
    """
    names: dict[str, str] = {}
    for name in OPERATORS:
        kind = operator_class(name)
        if getattr(kind, 'operator', kind).dims == 2:
            short = kind.short_name
            # A class derived from an operator has its short name.
            names[short if short and short not in names else name.lower().removesuffix('conv')] = name
    return names


def _operator(about: str, name: str) -> str | None:
    if name == PLAIN:
        return None
    short = operator_names()
    known = {**{full.lower(): full for full in short.values()}, **short}
    if name.lower() in known:
        return known[name.lower()]
    close = difflib.get_close_matches(name.lower(), [PLAIN, *known], n=2, cutoff=0.6)
    # An operator may be meant by its short and by its full name.
    near = [*{known.get(found): found for found in reversed(close)}.values()][::-1]
    hint = f'did you mean {" or ".join(map(repr, near))}? ' if near else ''
    raise ConfigError(
        f'{about}: no operator is called {name!r}; {hint}Use {PLAIN}, {", ".join(short)}; one of your own is '
        'known if custom_imports of the config names its module'
    )


def _pair(pair: str, about: str, example: str) -> tuple[str, str]:
    key, equals, value = pair.partition('=')
    if not equals or not key.strip():
        raise ConfigError(f'{about}: {pair!r} is not KEY=VALUE; write such as {example}')
    return key.strip(), value


def _set(part: dict[str, Any], key: str, value: str, pair: str, about: str) -> None:
    if not key or key in part:
        raise ConfigError(f'{about}: {pair!r} gives {"no key" if not key else "a key twice"}')
    part[key] = _value(value)


def _split(about: str, text: str) -> Iterator[str]:
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
            raise ConfigError(f'{about}: its brackets are not in pairs')
        elif letter == ',' and not opened:
            yield part
            part = ''
            continue
        part += letter
    if opened or quote:
        raise ConfigError(f'{about}: its {"quotes" if quote else "brackets"} are not in pairs')
    yield part


def _value(text: str) -> Any:
    text = text.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check(parsed: OperatorSpec, about: str) -> None:
    if parsed.operator is None:
        if own := [*parsed.options, *(f'{WHERE}{key}' for key in parsed.where)]:
            raise ConfigError(
                f'{about}: {own[0]} belongs to an operator, and {PLAIN} has none; of the plain network only '
                f'{OVERRIDE}KEY=VALUE can be changed'
            )
        return
    try:
        Where.of(parsed.where)
        check_arguments(parsed.operator, parsed.options)
    except (ArgumentError, ArgumentTypeError) as error:
        raise ConfigError(f'{about}: {error}') from error
