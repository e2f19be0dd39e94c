"""Comparison of the operators in the config of a checkpoint with those of another config."""

from typing import Any

from mmkerv.errors import CheckpointMismatchError
from mmkerv.models.placed_operators import placed_operators, placed_operators_of_text
from mmkerv.utils import printable


def require_same_operators(model: Any, checkpoint: Any, source: str) -> None:
    """Refuse to resume a checkpoint under a config with other operators than it was trained with.

    Operators with other arguments, and another rule that places them, may have parameters of the same names and shapes.

    Args:
        model: the config's model.
        checkpoint: as read; one without a config, or with an unreadable one, is accepted.
        source: its name, for the message.

    Raises:
        CheckpointMismatchError: naming the first difference.

    Example:
        >>> require_same_operators({'type': 'FCOS'}, {'meta': {'cfg': "model = dict(type='FCOS')"}}, 'a.pth')
    """
    if difference := operator_difference(model, checkpoint, may_start=False):
        raise CheckpointMismatchError(
            f'checkpoint {source!r} cannot be resumed with other operators: {difference}. Give the --operator and '
            '--where or the conv_cfg that it was trained with; or start a new run from its weights, with --cfg-options '
            f'load_from={source} and without --resume'
        )


def operator_difference(model: Any, checkpoint: Any, may_start: bool = True) -> str:
    """Return where the config of a checkpoint has another operator, as text; ``''`` if nowhere or if it has no config.

    Args:
        model: the model of the config that is compared with it, also inside that of test-time augmentation.
        checkpoint: as read.
        may_start: whether a checkpoint of a plain network is none of another one, as operators may start from it.

    Example:
        >>> text = "model = dict(conv_cfg=dict(type='mmkerv.KervConv', degree=2))"
        >>> operator_difference({'conv_cfg': {'type': 'mmkerv.KervConv'}}, {'meta': {'cfg': text}})
        'model.conv_cfg was KervConv(degree=2) and is KervConv()'
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    text = meta.get('cfg') if isinstance(meta, dict) else None
    trained = placed_operators_of_text(text) if isinstance(text, str) else None
    if not isinstance(model, dict) or trained is None or (may_start and not trained):
        return ''
    own = placed_operators(model['module'] if isinstance(model.get('module'), dict) else model)
    for place in (*trained, *own):
        if trained.get(place) != own.get(place):
            was, now = (printable(str(operators.get(place, 'no operator'))) for operators in (trained, own))
            return f'{printable(place)} was {was} and is {now}'
    return ''
