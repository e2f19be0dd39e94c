"""Weights that a training starts from."""

import logging

from mmengine.logging import MMLogger
from torch import nn

from mmkerv.ops.core.initialisation import plain_convolutions


def draw_initial_weights(network: nn.Module) -> None:
    """Initialise a network as our training does, without a log line for every parameter.

    As there, initialisers that look for ``nn.Conv2d`` find the operators too. Networks without ``init_weights`` keep
    the weights they were built with.

    Args:
        network: network of a config, just built; changed in place.

    Example:
        >>> draw_initial_weights(nn.Conv2d(3, 8, 3))
    """
    if not hasattr(network, 'init_weights'):
        return
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with plain_convolutions(network):
            network.init_weights()
    finally:
        logger.setLevel(level)
