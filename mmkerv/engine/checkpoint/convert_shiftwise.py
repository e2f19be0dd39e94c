"""Conversion of the Shift-ConvNets authors' checkpoints to layers that keep the order of their channels."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.errors import CheckpointMismatchError
from mmkerv.ops.shiftwise import released_orders

# Parameters of a block that see the channels of its shift-wise layer, and along which axis.
NEIGHBOURS = (
    (r'norm\.(?:weight|bias|running_mean|running_var)', 0),
    (r'se\.down\.weight', 1),
    (r'se\.up\.(?:weight|bias)', 0),
    (r'pwconv1\.(?:\d+\.)?weight', 1),
)
FIRST = 'LoRAs.0.weight'


def restore_channel_order(state_dict: Mapping[str, Tensor], source: str = 'the file') -> dict[str, Tensor]:
    """Put the channels behind each shift-wise layer of the authors' SW networks into the order of the input.

    Their layer puts the channels that it convolves first and the others behind them; ours keeps the order. So the
    parameters of the same block that follow the layer (``norm``, ``se``, ``pwconv1``, as in UniRepLKNet's block) are
    permuted. The layer's own names (``LoRAs.0.weight``, ``bn_lora1`` ...) stay: ``ShiftwiseConv2d`` reads them, and
    draws the orders that their checkpoints lack from their seed.

    Args:
        state_dict: of the authors' network.
        source: name of the checkpoint, for messages.

    Returns:
        The parameters by the same names.

    Raises:
        CheckpointMismatchError: if there is no shift-wise layer, or nothing known behind one.
        NonFiniteWeightsError: if a parameter holds NaN or infinite numbers.

    Example:
        >>> layer = {'dwconv.LoRAs.0.weight': torch.zeros(12 * 5, 1, 3, 3), 'dwconv.bn_small.weight': torch.ones(12)}
        >>> restored = restore_channel_order({**layer, 'norm.weight': torch.arange(16.0)})
        >>> sorted(restored['norm.weight'].tolist()) == list(range(16))
        True
    """
    layers = [key.removesuffix(FIRST) for key in state_dict if key.endswith(FIRST)]
    if not layers:
        raise CheckpointMismatchError(
            f"checkpoint {source!r} has no shift-wise layer: it must be the state dict of the authors' SW network "
            '(names such as LoRAs.0.weight)'
        )
    require_finite(state_dict, source)
    restored = dict(state_dict)
    for layer in layers:
        block = f'{layer.rstrip(".").rpartition(".")[0]}.'.lstrip('.')
        behind = {
            key: axis
            for key in state_dict
            for pattern, axis in NEIGHBOURS
            if key.startswith(block) and re.fullmatch(pattern, key.removeprefix(block))
        }
        small = state_dict.get(f'{layer}bn_small.weight')
        if not behind or small is None:
            raise CheckpointMismatchError(
                f'checkpoint {source!r}: there is no {block}norm, {block}se or {block}pwconv1 behind {layer[:-1]}, or '
                f'no {layer}bn_small.weight in it, so the order of its channels cannot be restored'
            )
        first = next(iter(behind))
        channels, used = state_dict[first].shape[behind[first]], len(small)
        # The number of small kernels and of orders does not matter for the choice of channels.
        kept = released_orders(channels, used, 1, 1)['channels']
        theirs = torch.cat([kept, torch.tensor(sorted(set(range(channels)) - set(kept.tolist())), dtype=torch.int64)])
        for key, axis in behind.items():
            restored[key] = state_dict[key].index_select(axis, theirs.argsort())
    return restored
