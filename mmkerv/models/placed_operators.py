"""The operators that a config puts into its model, also one that is read from the text in a checkpoint."""

import ast
import math
from types import FunctionType
from typing import Any, NamedTuple

from mmkerv.operator_table import operator_name

# Beside `conv_cfg` in the same dict: what decides which layers the operator replaces, and what they share.
BESIDE = ('where', 'share')


class PlacedOperator(NamedTuple):
    """An operator in a config.

    Args:
        operator: registered name.
        options: its arguments.
        rule: the keys ``where`` and ``share`` beside it.

    Example:
        >>> print(PlacedOperator('KervConv', {'degree': 2}, {'where': {'stages': ()}}))
        KervConv(degree=2), where={'stages': ()}
    """

    operator: str
    options: dict[str, Any]
    rule: dict[str, Any]

    def __str__(self) -> str:
        options = ', '.join(f'{key}={value!r}' for key, value in self.options.items())
        return ', '.join([f'{self.operator}({options})', *(f'{key}={value!r}' for key, value in self.rule.items())])


def placed_operators(node: Any, place: str = 'model') -> dict[str, PlacedOperator]:
    """Return the operators in a part of a config, each by the dotted key of its ``conv_cfg``.

    Args:
        node: that part; types may be names or classes.
        place: its dotted key.

    Example:
        >>> model = {'type': 'mmkerv.Converted', 'model': {'type': 'FCOS'}, 'conv_cfg': {'type': 'mmkerv.CoCConv'}}
        >>> list(map(str, placed_operators(model).items()))
        ["('model.conv_cfg', PlacedOperator(operator='CoCConv', options={}, rule={}))"]
    """
    found: dict[str, PlacedOperator] = {}
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return found
    for key, value in node.items():
        operator = None
        if str(key).endswith('conv_cfg') and isinstance(value, dict):
            operator = operator_name(value.get('type'))
        if operator is None:
            found.update(placed_operators(value, f'{place}.{key}'))
            continue
        options = {name: _comparable(option) for name, option in value.items() if name != 'type'}
        rule = {name: _comparable(node[name]) for name in BESIDE if node.get(name)}
        found[f'{place}.{key}'] = PlacedOperator(operator, options, rule)
    return found


def placed_operators_of_text(text: str) -> dict[str, PlacedOperator] | None:
    r"""Return the operators in the model of a config from its text, as checkpoints hold it; nothing of it is run.

    Returns:
        ``None`` for a text that is no config with a model.

    Example:
        >>> text = "lr = 0.1\nmodel = dict(conv_cfg=dict(type='mmkerv.KervConv', degree=2))"
        >>> str(placed_operators_of_text(text)['model.conv_cfg'])
        'KervConv(degree=2)'
        >>> placed_operators_of_text('lr = 0.1') is None
        True
    """
    try:
        statements = ast.parse(text).body
        models = [
            _evaluated(statement.value)
            for statement in statements
            if isinstance(statement, ast.Assign) and [getattr(t, 'id', None) for t in statement.targets] == ['model']
        ]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return placed_operators(models[-1]) if models and isinstance(models[-1], dict) else None


def _evaluated(node: ast.expr) -> Any:
    """Return the value of an expression of a dumped config: ``dict(...)``, literals, and anything else as its text."""
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict':
        # mmengine writes dict({...}) for keys that are no names.
        given = [_evaluated(argument) for argument in node.args]
        parts = [part for part in given if isinstance(part, dict)]
        return {key: value for part in parts for key, value in part.items()} | {
            keyword.arg: _evaluated(keyword.value) for keyword in node.keywords if keyword.arg
        }
    if isinstance(node, ast.Dict):
        return {ast.unparse(key).strip("'"): _evaluated(value) for key, value in zip(node.keys, node.values) if key}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluated(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _comparable(value: Any) -> Any:
    """Return a value in the form in which two configs are compared: a dumped one need not have tuples and classes."""
    if isinstance(value, dict):
        return {key: _comparable(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(map(_comparable, value))
    if isinstance(value, (type, FunctionType)):
        return f'{value.__module__}.{value.__qualname__}'
    # The text has inf, which is no literal.
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
