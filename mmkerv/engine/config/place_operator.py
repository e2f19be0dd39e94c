"""Put an operator into the whole model of a config."""

from mmengine.config import Config, ConfigDict

from mmkerv.engine.config.operator_spec import OperatorSpec
from mmkerv.errors import ConfigError
from mmkerv.models.placed_operators import placed_operators


def place_operator(cfg: Config, spec: OperatorSpec, flag: str = '--operator') -> Config:
    """Put :class:`mmkerv.Converted` around the model of a config, so that it needs no argument ``conv_cfg``.

    The keys of the state dict stay those of the plain network, so what it starts from (``load_from``, ``init_cfg``,
    ``pretrained``) loads as before; where the operator starts as the identity, it computes what the plain one does.
    ``spec.overrides`` are not applied.

    Args:
        cfg: config as loaded, changed in place; it stays as it is if the spec is of the plain network.
        spec: operator and rule.
        flag: flag that named the operator, for messages.

    Returns:
        ``cfg``.

    Raises:
        ConfigError: if the config has no model, or one with an operator of its own.

    Example:
        >>> from mmkerv.engine.config.operator_spec import parse_operator
        >>> cfg = Config(dict(model=dict(type='RetinaNet')))
        >>> place_operator(cfg, parse_operator('coc')).model
        {'type': 'mmkerv.Converted', 'model': {'type': 'RetinaNet'}, 'conv_cfg': {'type': 'mmkerv.CoCConv'}}
    """
    if spec.operator is None:
        return cfg
    about = f'{flag} {spec.spec!r}'
    if not isinstance(cfg.get('model'), dict):
        raise ConfigError(f'{about}: the config {cfg.filename!r} has no model; give the config of a network')
    if own := placed_operators(cfg.model):
        place, operator = next(iter(own.items()))
        more = f' and {len(own) - 1} more' if len(own) > 1 else ''
        raise ConfigError(
            f'{about}: the config {cfg.filename!r} has an operator already, {place}={operator}{more}, and two in one '
            f'model cannot be told apart; leave {flag} out to keep that one, or give the config of the plain network'
        )
    placed = {'type': 'mmkerv.Converted', 'model': cfg.model, 'conv_cfg': {'type': f'mmkerv.{spec.operator}'}}
    placed['conv_cfg'].update(spec.options)
    if spec.where:
        placed['where'] = spec.where
    cfg.model = ConfigDict(placed)
    return cfg
