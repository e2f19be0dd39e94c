"""Cost of a training before it is started, next to that of the plain network."""

import copy
import logging
from typing import Any, NamedTuple

from mmengine.config import Config
from torch import nn

from mmkerv.analysis.comparison.cost import UNCOUNTED, reason
from mmkerv.analysis.complexity import Complexity, complexity
from mmkerv.analysis.plan.preflight import quiet
from mmkerv.deploy.config import deploy_config
from mmkerv.deploy.image_size import pipeline_shape
from mmkerv.deploy.trained_model import built
from mmkerv.engine.config.from_scratch import remove_pretrained
from mmkerv.engine.config.schedule import length
from mmkerv.errors import UserError
from mmkerv.models.inventory import inventory


class Counted(NamedTuple):
    """Multiply-adds and parameters of a network.

    Args:
        counts: ``None`` if they cannot be counted.
        shape: height and width of the image.
        why_not: why nothing was counted.

    Example:
        >>> Counted(None, None, 'no images').counts is None
        True
    """

    counts: Complexity | None
    shape: tuple[int, int] | None
    why_not: str = ''


def counted(cfg: Config, model: nn.Module) -> Counted:
    """Count a network on an image of the size that its test pipeline names.

    Args:
        cfg: config.
        model: its model, on the CPU; its mode stays as it is.

    Example:
        >>> counted(cfg, model).shape  # doctest: +SKIP
        (800, 1344)
    """
    was_training = model.training
    try:
        model.eval()
        shape = pipeline_shape(cfg, model)
        return Counted(complexity(model, shape), shape)
    except UNCOUNTED as error:
        return Counted(None, None, reason(error))
    finally:
        model.train(was_training)


def plain_model(cfg: Config) -> nn.Module | None:
    """Build the plain network of a config, with random weights, in training mode.

    Args:
        cfg: config of the network with operators; it stays as it is.

    Returns:
        ``None`` if it has no plain form, as a network that is designed with operators.

    Example:
        >>> plain_model(load_config('configs/retinanet_r50_coc.py'))  # doctest: +SKIP
    """
    try:
        plain = deploy_config(cfg, host_shapes=True)
        remove_pretrained(plain, unfreeze=False)
        if plain.get('data_preprocessor'):
            plain.model.setdefault('data_preprocessor', copy.deepcopy(plain.data_preprocessor))
        with quiet(logging.ERROR):
            model = built(plain)
            if hasattr(model, 'init_weights'):
                model.init_weights()
    except (UserError, TypeError, ValueError, RuntimeError):
        return None
    return None if inventory(model).operators else model.train()


def iterations(cfg: Config, of_an_epoch: int | None, limit: int | None = None) -> int | None:
    """Return the number of iterations of a training, ``None`` if it is in epochs of unknown length.

    Args:
        cfg: config.
        of_an_epoch: iterations of an epoch.
        limit: number of iterations in place of the config's.

    Raises:
        ConfigError: if the config has no length.

    Example:
        >>> iterations(Config(dict(train_cfg=dict(max_epochs=12))), 100)
        1200
    """
    if limit is not None:
        return limit
    total = length(cfg)
    if total.unit == 'iteration':
        return total.number
    return None if of_an_epoch is None else total.number * of_an_epoch


def loader_workers(loader: Any) -> int:
    """Return the number of processes that read the data of a training; 0 if it is read between the steps.

    Example:
        >>> loader_workers(dict(num_workers=0)), loader_workers([dict(num_workers=4)])
        (0, 4)
    """
    first = loader[0] if isinstance(loader, (list, tuple)) and loader else loader
    return (first or {}).get('num_workers', 0)
