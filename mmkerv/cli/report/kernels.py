"""Kernels of a run before and after training, for its page."""

import io
import logging
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from PIL import Image
from torch import nn

from mmkerv.cli.report.page import Kernels
from mmkerv.engine.scope import enter_scope
from mmkerv.ops.core.generated import GeneratedKernel, relative_change
from mmkerv.visualization.kernel_figures import kernel_figure, title_of


def starting_model(cfg: Config, seed: int) -> nn.Module:
    """Build the network with the weights that it had before the first iteration of a run with this seed.

    mmengine's runner sets the seed, builds the network and initialises it; it draws no random numbers in between.

    Example:
        >>> starting_model(cfg, seed=0).training  # doctest: +SKIP
        True
    """
    enter_scope(cfg)
    logger = MMLogger.get_current_instance()
    level = logger.level
    # mmengine logs the initialisation of every parameter.
    logger.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = MODELS.build(cfg.model)
            model.init_weights()
    finally:
        logger.setLevel(level)
    return model


def draw_kernels(operators: dict[str, nn.Module], start: nn.Module | None) -> list[Kernels]:
    """Draw the kernels of up to three layers: the first, the last, the one between that association changed most.

    Where nothing is associated, the one between is that in the middle.

    Args:
        operators: operators, or plain convolutions, of the trained network by name.
        start: the network before training; ``None`` draws only the kernels after it.

    Example:
        >>> draw_kernels(find_operators(trained), starting_model(cfg, 0))[0].layer  # doctest: +SKIP
        'backbone.conv1'
    """
    strength = {name: association(op) for name, op in operators.items() if has_association(op)}
    first, *others = operators
    reasons = {first: 'The first layer, which sees the image.' if others else 'The only one.'}
    if others:
        last = others.pop()
        if associated := [name for name in others if name in strength]:
            most = max(associated, key=strength.get)
            reasons[most] = 'Of the layers between, the one that association changed most.'
        elif others:
            reasons[others[len(others) // 2]] = 'One between.'
        reasons[last] = 'The last one.'
    kernels = []
    for name, reason in reasons.items():
        before = None if start is None else start.get_submodule(name)
        after = operators[name]
        text = f'{title_of(after)}. {reason}'
        if name in strength:
            was = f'was {association(before):.3g} at the start and ' if before is not None else ''
            text += f' |K − W| / |W| {was}is {strength[name]:.3g} after training.'
        kernels.append(Kernels(name, text, _png(before) if before is not None else b'', _png(after)))
    return kernels


def has_association(operator: nn.Module) -> bool:
    """Return whether an operator makes its kernel from a basic kernel W.

    Example:
        >>> has_association(nn.Conv2d(3, 8, 3))
        False
    """
    return isinstance(operator, GeneratedKernel) and operator.weight is not None


@torch.no_grad()
def association(operator: Any) -> float:
    """Return |K - W| / |W| of an operator with a basic kernel W.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> association(CoCConv2d(4, 4, 3))
        0.0
    """
    return relative_change(operator.kernel(), operator.weight)


def _png(operator: nn.Module) -> bytes:
    figure = kernel_figure(operator)
    # The page has these texts in letters of its own size.
    figure.suptitle('')
    for axes in figure.axes:
        if axes.get_title().startswith('before'):
            # The layer does not convolve with the kernels before association.
            figure.delaxes(axes)
        axes.set_title('')
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=180, bbox_inches='tight', pad_inches=0.05)
    # A palette takes a third of the bytes and looks the same.
    with Image.open(buffer) as image:
        small = io.BytesIO()
        image.convert('RGB').quantize(255, dither=Image.Dither.NONE).save(small, 'PNG', optimize=True)
    return small.getvalue()
