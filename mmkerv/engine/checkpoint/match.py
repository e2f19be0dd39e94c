"""Comparison of a checkpoint with the network it is for; mmengine loads what fits and only logs the rest."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner, find_latest_checkpoint
from torch import Tensor, nn

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.engine.checkpoint.layouts import surplus_prefix, unwrapped_names, weights_of
from mmkerv.engine.checkpoint.load_hooks import names_after_hooks
from mmkerv.engine.checkpoint.same_operators import operator_difference, require_same_operators
from mmkerv.errors import CheckpointMismatchError
from mmkerv.ops.core.adapter import arguments_of, lacks_adapter, weight_key
from mmkerv.ops.core.base import ConvNd
from mmkerv.ops.core.generated import GeneratedKernel
from mmkerv.ops.lowrank.chain import TakesLowerRanks
from mmkerv.registry import HOOKS
from mmkerv.utils import bare_network, log, printable

# Keys that a report names, of all kinds together and of each.
NAMED, NAMED_OF_EACH = 5, 3


class CheckpointMatch(NamedTuple):
    """Report of how the keys of a checkpoint and of a network compare.

    Args:
        loaded: keys that both have, with equal shapes.
        missing: keys that the checkpoint lacks.
        unexpected: keys that the network lacks.
        shapes: keys whose shapes differ, plain weights that an operator would decompose included.
        operator_only: missing keys of operators' own parameters, and of orthogonal adapters, whose basic weight is in
            the checkpoint: the checkpoint is a plain network's, and these parameters keep their initial values.
        weightless: missing keys of operators without a basic kernel (CKConv), for which the checkpoint has plain
            weights: a plain network's checkpoint cannot have them.
        unused: keys of those plain weights.

    Example:
        >>> print(CheckpointMatch(['a'], [], ['fc.bias'], []))
        1 parameters loaded, 0 missing, 1 unexpected (fc.bias)
        >>> print(CheckpointMatch(['a'], [], [], [], operator_only=['a.balance']))
        1 parameters loaded, 0 missing, 0 unexpected; 1 operator parameters at their initial values (a.balance)
    """

    loaded: Sequence[str]
    missing: Sequence[str]
    unexpected: Sequence[str]
    shapes: Sequence[str]
    operator_only: Sequence[str] = ()
    weightless: Sequence[str] = ()
    unused: Sequence[str] = ()

    def __str__(self) -> str:
        kinds = [
            (self.missing, 'missing'),
            (self.unexpected, 'unexpected'),
            (self.shapes, 'of another shape'),
            (self.operator_only, 'operator parameters at their initial values'),
            (self.weightless, 'parameters of operators without a basic kernel at their initial values'),
            (self.unused, 'plain weights that those operators cannot use'),
        ]
        shown = _shares([len(keys) for keys, _ in kinds])
        texts = [_listed(keys, label, number) for (keys, label), number in zip(kinds, shown)]
        details = [text for text, (keys, _) in zip(texts[2:], kinds[2:]) if keys]
        return '; '.join([f'{len(self.loaded)} parameters loaded, {texts[0]}, {texts[1]}', *details])


def match_checkpoint(model: nn.Module, state_dict: dict[str, Any], after_hooks: bool = False) -> CheckpointMatch:
    """Compare the keys and shapes of ``state_dict`` with the network's.

    Args:
        model: network, bare or in a DDP or test-time-augmentation wrapper.
        state_dict: weights by the keys of the bare network, or by those that its modules rename when they are loaded
            (see :func:`~mmkerv.engine.checkpoint.load_hooks.names_after_hooks`); all of them may begin with
            ``module.``.
        after_hooks: the modules have renamed the keys already, as ``observe_loading`` reports them.

    Returns:
        The report; nothing is loaded.

    Example:
        >>> match_checkpoint(nn.Linear(2, 2), {'weight': nn.Linear(2, 2).weight}).missing
        ['bias']
    """
    model = bare_network(model)
    own = model.state_dict()
    given = _given(model, state_dict, after_hooks)
    operator_only = [
        f'{name}.{parameter}'
        for name, operator in _plain_operators(model, given)
        for parameter in operator.own_parameters()
    ]
    # Weights that are decomposed have been replaced already, so these have another shape.
    undecomposed = _weights_to_decompose(model, given)
    replaced = {key for keys in undecomposed.values() for key in keys}
    for name, layer in model.named_modules(remove_duplicate=False):
        operator_only += lacks_adapter(given, f'{name}.' if name else '', layer)
    taken = keys_of_other_ranks(model, given)
    # Checkpoints written before torch 1.0 have no num_batches_tracked, and torch fills it in.
    absent = [key for key in own if key not in given and not key.endswith('num_batches_tracked')]
    return CheckpointMatch(
        loaded=[k for k in own if k in given and (own[k].shape == _shape(given[k]) or k in taken)],
        missing=[key for key in absent if key not in operator_only and key not in replaced],
        unexpected=[k for k in given if k not in own and k not in undecomposed],
        shapes=[*undecomposed, *(k for k in own if k in given and own[k].shape != _shape(given[k]) and k not in taken)],
        operator_only=operator_only,
    )


def require_match(model: nn.Module, state_dict: dict[str, Any], source: str) -> CheckpointMatch:
    """Refuse a checkpoint of another network.

    A plain network's checkpoint is accepted, with a log line, if the operators start as the identity.

    Raises:
        CheckpointMismatchError: naming the keys and what to do.
        NonFiniteWeightsError: if a matching tensor holds NaN or anything but plain numbers.

    Example:
        >>> len(require_match(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), 'a.pth').loaded)
        2
    """
    match = match_checkpoint(model, state_dict)
    if match.missing or match.unexpected or match.shapes:
        advice = deploy_config_beside(source) or (
            'Give the config it was trained with (the deploy config for a folded checkpoint)'
        )
        if options := missing_options(model, match.unexpected):
            advice = f'It was trained with {options}: add that to conv_cfg'
        elif adapters := missing_adapters(match.unexpected, state_dict):
            advice = adapters
        elif about := _about_names(model, state_dict):
            advice = about
        raise CheckpointMismatchError(f'checkpoint {source!r} is not of the network of the config: {match}. {advice}')
    if match.operator_only:
        if changing := operators_changing_kernels(model, state_dict):
            raise CheckpointMismatchError(
                f'checkpoint {source!r} is of the plain (or folded) network, and {len(changing)} operators such as '
                f'{changing[0]} do not start as the identity: they would change its kernels. '
                f'{deploy_config_beside(source) or "If it is folded, give the deploy config that was written with it"}'
                "; for a plain checkpoint use super_init='identity', or the plain config"
            )
        log(
            f'mmkerv: {source} is a plain checkpoint; its {len(match.operator_only)} operator parameters keep the '
            'identity'
        )
    _require_finite_loaded(model, state_dict, match, source)
    return match


def differ_in_length(own: Any, given: Any) -> bool:
    """Return whether two tensors have equal slices, as a classifier's for two numbers of classes.

    Example:
        >>> differ_in_length(torch.ones(80, 8), torch.ones(1, 8)), differ_in_length(torch.ones(8, 8), torch.ones(8, 4))
        (True, False)
    """
    ours, theirs = (tuple(getattr(value, 'shape', ())) for value in (own, given))
    return len(ours) == len(theirs) and ours[1:] == theirs[1:]


def deploy_config_beside(source: str) -> str:
    """Return the advice to use the config of the same name beside a checkpoint, as folding writes one, or ``''``.

    Example:
        >>> deploy_config_beside('epoch_12.pth')
        ''
    """
    config = Path(source).with_suffix('.py')
    if '://' in source or config == Path(source) or not config.is_file():
        return ''
    return f'Give the config that was written with it, {str(config)!r}, which is the deploy config of a folded network'


def operators_changing_kernels(model: nn.Module, state_dict: dict[str, Any], after_hooks: bool = False) -> list[str]:
    """Return the names of operators that take a plain weight from the checkpoint and do not start as the identity.

    The arguments are those of :func:`match_checkpoint`.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> operators_changing_kernels(nn.Sequential(CoCConv2d(3, 8, 3, super_init='kaiming')), {'0.weight': None})
        ['0']
    """
    bare = bare_network(model)
    return [
        name
        for name, operator in _plain_operators(bare, _given(bare, state_dict, after_hooks))
        if operator.weight is not None and not operator.starts_as_identity
    ]


def warn_of_changed_kernels(changing: Sequence[str], source: str, target: str) -> None:
    """Warn of a training that starts from a plain checkpoint with operators that change its kernels.

    Args:
        changing: their names, as :func:`operators_changing_kernels` returns them, at least one.
        source: name of the checkpoint.
        target: name of the network.

    Example:
        >>> warn_of_changed_kernels(['backbone.conv1'], 'resnet50.pth', 'RetinaNet')
    """
    log(
        f'mmkerv: {source} is of the plain network, and {len(changing)} operators of {target} such as '
        f'{changing[0]} do not start as the identity: they change its kernels, and training goes on from '
        "there. Use super_init='identity' to start from what the checkpoint computes",
        logging.WARNING,
    )


def missing_options(model: nn.Module, unexpected: Iterable[str]) -> str:
    """Return the options with which the operators would have unexpected parameters, ``''`` if there are none.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> missing_options(nn.Sequential(CoCConv2d(3, 8, 3)), ['0.super_layers.0.bias', '1.weight'])
        'super_bias=True'
    """
    operators = {name: module for name, module in bare_network(model).named_modules() if isinstance(module, ConvNd)}
    options = []
    for key in unexpected:
        for dot in re.finditer(r'\.', key):
            operator = operators.get(key[: dot.start()])
            if operator is not None:
                options.append(operator.option_for(key[dot.end() :]))
    return ', '.join(dict.fromkeys(filter(None, options)))


def missing_adapters(unexpected: Iterable[str], state_dict: Mapping[str, Any]) -> str:
    """Return what to do about a checkpoint with orthogonal adapters that the network lacks, ``''`` if it has none.

    Example:
        >>> missing_adapters(['conv.super_layers.0.weight'], {})
        ''
    """
    arguments = arguments_of(unwrapped_names(dict(state_dict)), unexpected)
    if not arguments:
        return ''
    return (
        "It was trained with orthogonal adapters: give them to the network, dict(type='mmkerv.Converted', "
        f'model=dict(...), {arguments}), or fold the checkpoint first, with '
        'tools/model_converters/reparameterize_model.py and its own config'
    )


@HOOKS.register_module()
class CheckpointMatchHook(Hook):
    """Hook that compares every checkpoint the runner reads with the network before it is loaded.

    Args:
        strict: refuse a checkpoint of another network. Otherwise log the report, and refuse only a checkpoint that
            shares no parameter with the network, or whose operators have another option (``super_bias``). ``None``:
            strict but for a training that starts from weights (``load_from`` without ``--resume``). The runner writes
            its hooks into the config of the run, so what holds for a training must not be said there: a test reads it.

    Raises:
        CheckpointMismatchError: as :func:`require_match`.
        NonFiniteWeightsError: as :func:`require_match`.

    Example:
        >>> CheckpointMatchHook(strict=True).priority
        'LOWEST'
    """

    # After EMAHook, which swaps the averaged and raw weights in the same event: the dict to check is the loaded one.
    priority = 'LOWEST'

    def __init__(self, strict: bool | None = None) -> None:
        self.strict = strict

    def is_strict(self, runner: Runner) -> bool:
        """Return whether the checkpoint that the runner reads must be of the config's network."""
        if self.strict is not None:
            return self.strict
        # A test leaves the loop of the training a dict.
        return runner._resume or not isinstance(runner._train_loop, BaseLoop)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the weights with the network's."""
        source = str(runner._load_from or find_latest_checkpoint(runner.work_dir))
        state_dict = weights_of(checkpoint, source)
        self._check_operators(runner, checkpoint, source)
        self._check_ranks(runner, state_dict, source)
        self._check_averaged(runner, checkpoint, source)
        missing = [key for key in ('meta', 'message_hub') if not isinstance(checkpoint.get(key), dict)]
        if runner._resume and missing:
            raise CheckpointMismatchError(
                f'checkpoint {source!r} cannot be resumed: it holds no {" and no ".join(missing)}, only weights. Start '
                f'from them with --cfg-options load_from={source}, without --resume'
            )
        if self.is_strict(runner):
            require_match(runner.model, state_dict, source)
            return
        match = match_checkpoint(runner.model, state_dict)
        if not match.loaded:
            advice = (
                'Leave load_from out, or load a backbone by '
                "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)"
            )
            raise CheckpointMismatchError(
                f'checkpoint {source!r} shares no parameter with the network of the config: {match}. '
                f'{_about_names(runner.model, state_dict) or advice}'
            )
        if options := missing_options(runner.model, match.unexpected):
            raise CheckpointMismatchError(
                f'checkpoint {source!r} was trained with {options}, which the config does not have: {match}. '
                'Add that to conv_cfg'
            )
        if adapters := missing_adapters(match.unexpected, state_dict):
            raise CheckpointMismatchError(
                f'checkpoint {source!r} has weights that the network would leave at random: {match}. {adapters}'
            )
        _require_finite_loaded(runner.model, state_dict, match, source)
        log(f'mmkerv: {source}: {match}')
        if changing := operators_changing_kernels(runner.model, state_dict):
            warn_of_changed_kernels(changing, source, type(bare_network(runner.model)).__name__)

    def _check_operators(self, runner: Runner, checkpoint: dict, source: str) -> None:
        """Compare the operators of the configs: parameters of the same names may belong to another function."""
        model = runner.cfg.get('model')
        if runner._resume:
            require_same_operators(model, checkpoint, source)
        elif self.is_strict(runner) and (difference := operator_difference(model, checkpoint)):
            log(f'mmkerv: {source} was trained with other operators: {difference}', logging.WARNING)

    def before_train(self, runner: Runner) -> None:
        """Let averages follow low-rank layers that took lower ranks from the weights they loaded.

        Raises:
            CheckpointMismatchError: if they did after the model was wrapped for several devices.
        """
        layers = {
            name: layer
            for name, layer in bare_network(runner.model).named_modules()
            if isinstance(layer, TakesLowerRanks) and layer.ranks != layer.built_ranks
        }
        if layers and is_model_wrapper(runner.model):
            name, layer = next(iter(layers.items()))
            raise CheckpointMismatchError(
                f'{len(layers)} low-rank layers took lower ranks than the config gives, such as {name} {layer.ranks} '
                f'for {layer.built_ranks}, and {type(runner.model).__name__} cannot follow parameters that change '
                'their shape: train on one device'
            )
        follow_ranks(runner)

    def _check_ranks(self, runner: Runner, state_dict: dict[str, Any], source: str) -> None:
        """Refuse to train layers that would change their shape after the model was wrapped for several devices."""
        if not is_model_wrapper(runner.model) or not isinstance(runner._train_loop, BaseLoop):
            return
        bare = bare_network(runner.model)
        if keys := keys_of_other_ranks(bare, _given(bare, state_dict)):
            raise CheckpointMismatchError(
                f'checkpoint {source!r} has other ranks than the config, such as in {min(keys)}, and '
                f'{type(runner.model).__name__} cannot follow parameters that change their shape: train on one device'
            )

    def _check_averaged(self, runner: Runner, checkpoint: dict, source: str) -> None:
        """Check what mmengine's EMAHook has loaded into its averaged network, without a word about what fits."""
        for hook in (hook for hook in runner.hooks if isinstance(hook, EMAHook)):
            own = bare_network(runner.model).state_dict()
            # mmpretrain's hook loads the averaged weights in a test too, and notes that it has.
            if 'ema_state_dict' in checkpoint and getattr(hook, 'load_ema_from_ckpt', runner._resume):
                averaged = weights_of({'state_dict': checkpoint['ema_state_dict']}, source)
                require_match(runner.model, averaged, f'{source} (ema_state_dict)')
            elif any(key not in own and key.removeprefix('module.') in own for key in checkpoint['state_dict']):
                raise CheckpointMismatchError(
                    f"checkpoint {source!r} has keys that begin with 'module.', which EMAHook does not load into the "
                    "averaged network; add custom_hooks = [dict(type='mmkerv.CheckpointLayoutHook')]"
                )


def follow_ranks(runner: Runner) -> None:
    """Give the averages of ``EMAHook`` the ranks that the low-rank layers have, and the tensors that they average.

    Example:
        >>> follow_ranks(runner)  # doctest: +SKIP
    """
    layers = {n: m for n, m in bare_network(runner.model).named_modules() if isinstance(m, TakesLowerRanks)}
    for average in (hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)):
        for name, layer in layers.items():
            own = average.module.get_submodule(name)
            # EMAHook copies the network before `init_cfg` loads its weights.
            if own.ranks != layer.ranks:
                own.load_state_dict(layer.state_dict())
        if layers and average.update_buffers:
            # mmengine keeps tensors of the state dict, which are those of the former shapes.
            average.avg_parameters = average.module.state_dict()


def keys_of_other_ranks(model: nn.Module, given: Mapping[str, Any]) -> set[str]:
    """Return the keys of the kernels for which low-rank layers would change their ranks.

    Example:
        >>> from mmkerv.ops import LowRankConv2d
        >>> keys = keys_of_other_ranks(LowRankConv2d(8, 8, 3, rank=8), LowRankConv2d(8, 8, 3, rank=4).state_dict())
        >>> sorted(keys)
        ['core', 'first', 'last']
    """
    return {
        key
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, TakesLowerRanks)
        for key in layer.keys_of_other_ranks(given, f'{name}.' if name else '')
    }


def _about_names(model: nn.Module, state_dict: dict[str, Any]) -> str:
    """Return what is to be said if the weights would fit under other names, else an empty string."""
    own = bare_network(model).state_dict()
    given = _given(bare_network(model), state_dict)
    held, parts = ({key.partition('.')[0] for key in keys} for keys in (given, own))
    if held == {'backbone'} < parts:
        return (
            f'It holds the weights of the backbone alone, not of {", ".join(sorted(parts - held))}: train from it by '
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        )
    if prefix := surplus_prefix([key for key in given if key not in own], own):
        return (
            f'Its keys begin with {prefix!r}, which those of the network do not: save its weights without that, as '
            f'{{key.removeprefix({prefix!r}): value}}'
        )
    return ''


def _shares(counts: Sequence[int]) -> list[int]:
    """Return how many keys of each kind are named, by turns.

    Example:
        >>> _shares([9, 1, 4]), _shares([9, 0])
        ([2, 1, 2], [3, 0])
    """
    counts = [min(count, NAMED_OF_EACH) for count in counts]
    shares = [0] * len(counts)
    while sum(shares) < min(NAMED, sum(counts)):
        for i, count in enumerate(counts):
            if shares[i] < count and sum(shares) < NAMED:
                shares[i] += 1
    return shares


def _listed(keys: Sequence[str], label: str, number: int) -> str:
    """Return how many keys there are, the label, and the names of the first few."""
    if not keys:
        return f'0 {label}'
    names = [printable(key) for key in keys[:number]] + ['...'] * (len(keys) > number)
    return f'{len(keys)} {label} ({", ".join(names)})'


def _require_finite_loaded(model: nn.Module, state_dict: dict[str, Any], match: CheckpointMatch, source: str) -> None:
    bare = bare_network(model)
    named = _read_names(bare, state_dict)
    given = _decomposed_names(bare, named)
    # What is to be decomposed is checked as it is, under its name in the checkpoint.
    decomposed = {key: value for key, value in named.items() if key not in given}
    require_finite({**{key: given[key] for key in match.loaded}, **decomposed}, source, bare.state_dict())


def _shape(value: Any) -> torch.Size | None:
    # numpy arrays have a shape too, but cannot be loaded.
    return value.shape if isinstance(value, Tensor) else None


def _given(model: nn.Module, state_dict: dict[str, Any], after_hooks: bool = False) -> dict[str, Any]:
    """Return the state dict by the names of the bare network, as its layers will load it."""
    return _decomposed_names(model, _read_names(model, state_dict, after_hooks))


def _read_names(model: nn.Module, state_dict: dict[str, Any], after_hooks: bool = False) -> dict[str, Any]:
    """Return the state dict by the names under which the bare network finds its weights."""
    return names_after_hooks(model, unwrapped_names(state_dict), run_hooks=not after_hooks)


def _decomposed_names(model: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """Replace plain weights that operators will decompose by what they become; its values stay to be computed."""
    shapes = decomposed_shapes(model)
    for key, own in _weights_to_decompose(model, given).items():
        if _shape(given[key]) == shapes[key]:
            given = {**given, **own}
            del given[key]
    return given


def _weights_to_decompose(model: nn.Module, given: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the keys of plain weights for operators that decompose one, with the parameters that it would become."""
    found = {}
    for name, operator in model.named_modules():
        if not getattr(operator, 'decomposes_weight', False):
            continue
        prefix = f'{name}.' if name else ''
        own = {f'{prefix}{key}': value for key, value in operator.own_parameters().items()}
        if f'{prefix}weight' in given and not any(key in given for key in own):
            found[f'{prefix}weight'] = own
    return found


def decomposed_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the plain weights that operators would decompose, by key.

    Example:
        >>> from mmkerv.ops import LowRankConv2d
        >>> decomposed_shapes(nn.Sequential(LowRankConv2d(4, 8, 3)))
        {'0.weight': (8, 4, 3, 3)}
    """
    operators = {n: m for n, m in model.named_modules() if getattr(m, 'decomposes_weight', False)}
    return {
        f'{name}.weight' if name else 'weight': (op.out_channels, op.in_channels // op.groups, *op.kernel_size)
        for name, op in operators.items()
    }


def _plain_operators(model: nn.Module, given: dict[str, Any]) -> list[tuple[str, ConvNd]]:
    """Return the operators whose basic weight is given and none of their own parameters: a plain network's weight."""
    return [
        (name, operator)
        for name, operator in model.named_modules()
        # Others, such as kervolutions, compute no convolution with a plain weight, whatever their parameters are.
        if isinstance(operator, ConvNd)
        and (operator.starts_as_identity or isinstance(operator, GeneratedKernel))
        and not operator.decomposes_weight
        and f'{name}.{weight_key(operator)}' in given
        and not any(f'{name}.{parameter}' in given for parameter in operator.own_parameters())
    ]
