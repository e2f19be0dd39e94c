"""The config of a variant: the given one with the operator placed, its own settings, and a run that is recorded."""

import copy
import inspect
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from mmkerv.analysis.comparison.resumable import resumable
from mmkerv.analysis.comparison.variant import FLAG, Variant
from mmkerv.engine.config.check import check_hooks, check_operators
from mmkerv.engine.config.evaluation import add_local_backend
from mmkerv.engine.config.operator_spec import OVERRIDE
from mmkerv.engine.config.place_operator import place_operator
from mmkerv.engine.config.write import by_name
from mmkerv.engine.scope import enter_scope, library_of
from mmkerv.errors import ConfigError


def variant_config(cfg: Config, variant: Variant) -> tuple[Config, list[str]]:
    """Return the config of a variant, and what its own settings made necessary, in words.

    The whole model is placed in :class:`mmkerv.Converted`, so it needs no argument ``conv_cfg``; where the operator
    starts as the identity, the network starts as the plain one. Where another optimizer is asked for, arguments that it
    does not take are left out.

    Args:
        cfg: config as loaded, with its final schedule; it stays as it is.
        variant: what to place.

    Raises:
        ConfigError: if the config has nothing to train or to evaluate, or a setting does not fit it.

    Example:
        >>> variant_config(load_config('retinanet.py'), parse_variant('coc'))[0].model.type  # doctest: +SKIP
        'mmkerv.Converted'
    """
    cfg, notes = copy.deepcopy(cfg), []
    for key in ('model', 'train_cfg', 'train_dataloader', 'val_cfg', 'val_dataloader', 'val_evaluator'):
        # A loop may be given by an empty dict.
        if cfg.get(key) is None:
            raise ConfigError(f'{cfg.filename}: the config has no {key}; a comparison trains and evaluates: add one')
    place_operator(cfg, variant, FLAG)
    try:
        cfg.merge_from_dict(_inside(variant))
    except (KeyError, TypeError, AttributeError) as error:
        reason = str(error.args[0]).rstrip('.')
        raise ConfigError(
            f'{FLAG} {variant.spec!r}: its {OVERRIDE} settings do not fit {cfg.filename!r}: {reason}. Change the keys'
        ) from error
    if any(key.endswith('optimizer.type') for key in variant.overrides):
        notes += _without_unknown_arguments(cfg)
    by_name(cfg)
    check_operators(cfg.model, 'model')
    check_hooks(cfg)
    resumable(cfg)
    _log_into_the_run(cfg)
    add_local_backend(cfg)
    return cfg, notes


def _log_into_the_run(cfg: Config) -> None:
    """Remove the folders of the visualizer and its backends, which all runs would share."""
    visualizer = cfg.get('visualizer') or {}
    backends = visualizer.get('vis_backends') or []
    for part in (visualizer, *(backends.values() if isinstance(backends, dict) else backends)):
        if isinstance(part, dict):
            part.pop('save_dir', None)


def _inside(variant: Variant) -> dict[str, Any]:
    """Return the variant's settings with those of the model where the model now is."""
    if variant.operator is None:
        return variant.overrides
    return {
        f'model.{key}' if key == 'model' or key.startswith('model.') else key: value
        for key, value in variant.overrides.items()
    }


def _without_unknown_arguments(cfg: Config) -> list[str]:
    """Remove arguments that the config's optimizer does not take, such as the momentum of SGD from AdamW."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    kind = built = optimizer.get('type')
    if isinstance(kind, str):
        # As mmengine does when it builds one: a library has optimizers of its own.
        enter_scope(cfg)
        with OPTIMIZERS.switch_scope_and_registry(library_of(cfg)) as registry:
            built = registry.get(kind)
    if built is None:
        raise ConfigError(
            f'optim_wrapper.optimizer.type: no optimizer is called {kind!r}; use a class of torch.optim, or one of the '
            "config's library"
        )
    known = inspect.signature(built).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return []
    unknown = [key for key in optimizer if key != 'type' and key not in known]
    return [f'optim_wrapper.optimizer.{key}={optimizer.pop(key)} left out: {kind} does not take it' for key in unknown]
