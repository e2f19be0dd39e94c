"""Does a checkpoint belong to a network? mmengine loads what fits and only logs the rest."""

from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor, nn

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.errors import CheckpointMismatchError
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.registry import HOOKS
from mmkerv.utils import log, printable


class CheckpointMatch(NamedTuple):
    """How the keys of a checkpoint and of a network compare.

    Args:
        loaded: keys that both have, with equal shapes.
        missing: keys the checkpoint lacks.
        unexpected: keys the network lacks.
        shapes: keys whose shapes differ.
        operator_only: missing keys that are operators' own parameters, their basic weight being there: the checkpoint
            is a plain network's.

    Example:
        >>> print(CheckpointMatch(['a'], [], [], [], []))
        1 parameters loaded
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    shapes: list[str]
    operator_only: list[str]

    def __str__(self) -> str:
        parts = [f'{len(self.loaded)} parameters loaded']
        for label, keys in (
            ('missing', self.missing),
            ('unexpected', self.unexpected),
            ('of another shape', self.shapes),
            ('kept by the operators (plain checkpoint)', self.operator_only),
        ):
            if keys:
                parts.append(named(keys, label))
        return '; '.join(parts)


def named(keys: list[str], label: str) -> str:
    """Return how many keys there are, what they are, and the names of the first three.

    Example:
        >>> named(['fc.weight', 'fc.bias'], 'unexpected'), named([], 'missing')
        ('2 unexpected (fc.weight, fc.bias)', '0 missing')
    """
    names = f' ({", ".join(map(printable, keys[:3]))}{", ..." if len(keys) > 3 else ""})' if keys else ''
    return f'{len(keys)} {label}{names}'


def match_checkpoint(model: nn.Module, state_dict: dict[str, Any]) -> CheckpointMatch:
    """Compare the keys and shapes of ``state_dict`` with the network's.

    Args:
        model: network, in a DDP or test-time-augmentation wrapper or not.
        state_dict: keys as the bare network has them, or with the prefix ``module.``.

    Returns:
        The comparison; nothing is loaded.

    Example:
        >>> match_checkpoint(nn.Linear(2, 2), {'weight': nn.Linear(2, 2).weight}).missing
        ['bias']
    """
    model = _bare(model)
    own = model.state_dict()
    given = _given(model, state_dict)
    plain = [f'{name}.{parameter}' for name, operator in _plain_operators(model, given) for parameter in _own(operator)]
    # A checkpoint of before torch 1.0 has no num_batches_tracked, and torch fills it in.
    absent = [k for k in own if k not in given and k not in plain and not k.endswith('num_batches_tracked')]
    return CheckpointMatch(
        loaded=[k for k in own if k in given and own[k].shape == _shape(given[k])],
        missing=absent,
        unexpected=[k for k in given if k not in own],
        shapes=[k for k in own if k in given and own[k].shape != _shape(given[k])],
        operator_only=plain,
    )


def require_match(model: nn.Module, state_dict: dict[str, Any], source: str) -> CheckpointMatch:
    """Refuse a checkpoint that is not of this network.

    A plain network's checkpoint is accepted, with a log line, where the operators start as the identity.

    Raises:
        CheckpointMismatchError: naming the keys and the cure.
        NonFiniteWeightsError: if what fits holds NaN, or is no plain numbers.

    Example:
        >>> len(require_match(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), 'a.pth').loaded)
        2
    """
    match = match_checkpoint(model, state_dict)
    if match.missing or match.unexpected or match.shapes:
        raise CheckpointMismatchError(
            f'checkpoint {source!r} is not of the network of the config: {match}. Give the config it was trained with '
            '(the deploy config for a folded checkpoint)'
        )
    if match.operator_only:
        moved = changed_kernels(model, state_dict)
        if moved:
            raise CheckpointMismatchError(
                f'checkpoint {source!r} is of the plain (or folded) network, and {len(moved)} operators such as '
                f"{moved[0]} do not start as the identity: they would change its kernels. Use super_init='identity', "
                'or the plain config'
            )
        log(
            f'mmkerv: {source} is a plain checkpoint; its {len(match.operator_only)} operator parameters keep the '
            'identity'
        )
    _require_sound(model, state_dict, match, source)
    return match


def changed_kernels(model: nn.Module, state_dict: dict[str, Any]) -> list[str]:
    """Return the names of the operators that a plain checkpoint gives a weight, and that do not start as the identity.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> changed_kernels(nn.Sequential(CoCConv2d(3, 8, 3, super_init='kaiming')), {'0.weight': None})
        ['0']
    """
    bare = _bare(model)
    plain = [(name, op) for name, op in _plain_operators(bare, _given(bare, state_dict)) if op.weight is not None]
    return [name for name, op in plain if _start(op) != 'identity']


@HOOKS.register_module()
class CheckpointMatchHook(Hook):
    """Check every checkpoint the runner reads, before it is loaded.

    Args:
        strict: refuse one of another network (test, ``--resume``); else say in one line what fits (``load_from``).

    Raises:
        CheckpointMismatchError: as :func:`require_match`.
        NonFiniteWeightsError: likewise.

    Example:
        >>> CheckpointMatchHook(strict=True).priority
        'LOWEST'
    """

    # EMAHook exchanges state dicts in the same place; the one that is loaded is the one to check.
    priority = 'LOWEST'

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check or report."""
        source = str(runner._load_from or find_latest_checkpoint(runner.work_dir))
        state_dict = weights_of(checkpoint, source)
        absent = [key for key in ('meta', 'message_hub') if not isinstance(checkpoint.get(key), dict)]
        if runner._resume and absent:
            raise CheckpointMismatchError(
                f'checkpoint {source!r} cannot be resumed: it holds no {" and no ".join(absent)}, only weights. Start '
                f'from them with --cfg-options load_from={source}, without --resume'
            )
        if self.strict:
            require_match(runner.model, state_dict, source)
            return
        match = match_checkpoint(runner.model, state_dict)
        if not match.loaded:
            raise CheckpointMismatchError(
                f'checkpoint {source!r} shares no parameter with the network of the config: {match}. Leave load_from '
                "out, or load a backbone by model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)"
            )
        _require_sound(runner.model, state_dict, match, source)
        log(f'mmkerv: {source}: {match}')


def weights_of(checkpoint: Any, source: str) -> dict[str, Any]:
    """Return the weights by name of what was read from ``source``: a checkpoint of a runner, or bare weights.

    Raises:
        CheckpointMismatchError: if it is neither.

    Example:
        >>> weights_of({'meta': {}, 'state_dict': {'a': 1}}, 'a.pth'), weights_of({'a': 1}, 'a.pth')
        ({'a': 1}, {'a': 1})
    """
    weights = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else checkpoint
    strange = [key for key in weights if not isinstance(key, str)] if isinstance(weights, dict) else [weights]
    if strange:
        raise CheckpointMismatchError(
            f'checkpoint {source!r} holds a {type(strange[0]).__name__}, not parameters by name; give one that a '
            'runner saved, or torch.save(model.state_dict(), FILE)'
        )
    return weights


def _require_sound(model: nn.Module, state_dict: dict[str, Any], match: CheckpointMatch, source: str) -> None:
    own, given = _bare(model).state_dict(), _given(_bare(model), state_dict)
    require_finite({key: given[key] for key in match.loaded}, source, own)


def _shape(value: Any) -> torch.Size | None:
    # Arrays of numpy have shapes too, and are not loaded.
    return value.shape if isinstance(value, Tensor) else None


def _bare(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _given(model: nn.Module, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with the names that the bare network has."""
    own = model.state_dict()
    return {key if key in own else key.removeprefix('module.'): value for key, value in state_dict.items()}


def _plain_operators(model: nn.Module, given: dict[str, Any]) -> list[tuple[str, GeneratedKernel]]:
    """Operators of which the basic weight is given and no parameter of their own: the weight is a plain network's."""
    return [
        (name, operator)
        for name, operator in model.named_modules()
        if isinstance(operator, GeneratedKernel)
        and f'{name}.weight' in given
        and not any(f'{name}.{parameter}' in given for parameter in _own(operator))
    ]


def _own(operator: GeneratedKernel) -> list[str]:
    return [name for name, _ in operator.named_parameters() if name not in ('weight', 'bias')]


def _start(operator: GeneratedKernel) -> str | None:
    return getattr(getattr(operator, 'options', None), 'start', None)
