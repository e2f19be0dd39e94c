"""The step with which upstream's RepVGG and its like merge the branches of their blocks, after the operators' fold."""

import inspect
import re

from mmengine.config import Config
from torch import nn

from mmkerv.errors import FoldCheckError
from mmkerv.ops.core.base import ConvNd
from mmkerv.registry import local_name

# Arguments with which upstream's backbones build the merged form.
ARGUMENTS = ('deploy', 'small_kernel_merged')


def merges_branches(model: nn.Module) -> str | None:
    """Return the argument with which the backbone of a model is built in merged form, ``None`` if it has no such form.

    Upstream's tool of the same purpose considers the backbone only.

    Example:
        >>> merges_branches(nn.Sequential())
    """
    backbone = getattr(model, 'backbone', None)
    if not callable(getattr(backbone, 'switch_to_deploy', None)):
        return None
    parameters = inspect.signature(type(backbone).__init__).parameters
    return next((name for name in ARGUMENTS if name in parameters), None)


def merges_always(model: nn.Module) -> bool:
    """Return whether the backbone has no config for its operators alone folded, so that its own step must follow.

    Example:
        >>> merges_always(nn.Sequential())
        False
    """
    return getattr(getattr(model, 'backbone', None), 'merges_with_fold', False)


def merge_branches(model: nn.Module, cfg: Config) -> None:
    """Merge the branches of a folded model's backbone, and make its deploy config say so; both are changed.

    Args:
        model: folded model of the three libraries, in evaluation mode.
        cfg: its deploy config.

    Raises:
        FoldCheckError: if the backbone has no such step, or still holds operators.

    Example:
        >>> merge_branches(model, cfg)  # doctest: +SKIP
    """
    argument = merges_branches(model)
    if argument is None:
        backbone = type(getattr(model, 'backbone', model)).__name__
        raise FoldCheckError(
            f'--upstream-deploy: {backbone} has no deploy step of its own (switch_to_deploy); leave the flag out'
        )
    left = [name for name, module in model.backbone.named_modules() if isinstance(module, ConvNd)]
    if left:
        raise FoldCheckError(
            f'--upstream-deploy: {len(left)} operators of the backbone do not fold ({left[0]}, ...), and its deploy '
            'step would read their `weight` as their kernel; leave the flag out'
        )
    model.backbone.switch_to_deploy()
    own = [re.escape(name) for name in getattr(model.backbone, 'own_operators', list)()]
    network = _network(cfg.model, [rf'backbone\.{name}' for name in own])
    _network(network['backbone'], own)[argument] = True


def _network(node: dict, own: list[str]) -> dict:
    """Return the config of the network that ``mmkerv.Converted`` builds, ``node`` itself if it is that of another.

    The layers ``own`` were operators, which ``Converted`` left alone; merged they are plain convolutions, which its
    ``where`` is made to leave out.
    """
    while local_name(node.get('type'), ('mmkerv',)) == 'Converted':
        if own:
            where = dict(node.get('where') or {})
            names = where.get('names') or ['']
            names = [names] if isinstance(names, str) else names
            where['names'] = [rf'^(?!(?:{"|".join(own)})$).*(?:{name})' for name in names]
            node['where'] = where
        node = node.get('model') or node['backbone']
    return node
