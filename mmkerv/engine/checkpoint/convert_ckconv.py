"""Parameters of the CKConv authors' networks under the names of ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.errors import CheckpointMismatchError
from mmkerv.utils import printable

# (authors' name, ours); a kernel net's layer is named by its place in a Sequential.
RULES = (
    (r'backbone\.(\d+)\.cconv(\d)\.bias', r'backbone.blocks.\1.conv\2.bias'),
    (r'backbone\.(\d+)\.norm(\d)\.layer_norm\.(weight|bias)', r'backbone.blocks.\1.norm\2.\3'),
    (r'backbone\.(\d+)\.shortcut\.0\.(weight|bias)', r'backbone.blocks.\1.shortcut.\2'),
    (r'finallyr\.(weight|bias)', r'head.fc.\1'),
)
WANTED = (
    "The file must be the state dict of the CKConv authors' CKCNN (names such as "
    'backbone.0.cconv1.Kernel.kernel_net.0.weight_g)'
)
LAYER = re.compile(r'(backbone\.(\d+)\.cconv(\d)\.Kernel\.kernel_net\.)(\d+)\.(weight_g|weight_v|weight|bias)')


def convert_ckconv(
    state_dict: Mapping[str, Tensor], source: str = 'the file'
) -> tuple[dict[str, Tensor], dict[str, str]]:
    r"""Rename the parameters of a CKCNN of the authors and resolve its weight normalisation, :math:`w = g v / |v|`.

    Args:
        state_dict: of the authors' ``CKCNN``.
        source: where it comes from, for messages.

    Returns:
        The parameters of an mmpretrain ``ImageClassifier`` with ``mmkerv.CKCNN`` and ``LinearClsHead``, and for each of
        the authors' names ours.

    Raises:
        CheckpointMismatchError: naming every key that has no place in our network, or half a weight normalisation.
        NonFiniteWeightsError: if they hold NaN.

    Example:
        >>> convert_ckconv({'finallyr.bias': torch.zeros(10)})[1]
        {'finallyr.bias': 'head.fc.bias'}
    """
    if odd := [key for key, value in state_dict.items() if not isinstance(value, Tensor)]:
        raise CheckpointMismatchError(
            f'{printable(odd[0])} is a {type(state_dict[odd[0]]).__name__}, not a tensor: {WANTED}'
        )
    require_finite(state_dict, source)
    layers = _layer_numbers(state_dict)
    converted, names, unmapped = {}, {}, []
    for key, value in state_dict.items():
        if match := LAYER.fullmatch(key):
            prefix, block, conv, place, kind = match.groups()
            name = f'backbone.blocks.{block}.conv{conv}.kernel_net.layers.{layers[prefix].index(int(place))}.'
            names[key] = name + kind.partition('_')[0]
            if kind == 'weight_g':
                continue
            if kind == 'weight_v':
                value = _normalised(state_dict, key)
            # Their linear layers are convolutions over positions.
            converted[names[key]] = value.squeeze(-1) if value.dim() == 3 else value
            continue
        for pattern, ours in RULES:
            if match := re.fullmatch(pattern, key):
                names[key] = match.expand(ours)
                converted[names[key]] = value
                break
        else:
            unmapped.append(key)
    if unmapped or not names:
        found = ', '.join(map(printable, unmapped[:8])) + (', ...' if len(unmapped) > 8 else '') or 'nothing'
        raise CheckpointMismatchError(f'{len(unmapped)} parameters have no place in mmkerv.CKCNN: {found}. {WANTED}')
    require_finite(converted, source)
    return converted, names


def _layer_numbers(state_dict: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Places of the linear layers in each kernel net, in order; norms and activations stand between."""
    places: dict[str, set[int]] = {}
    for key in state_dict:
        if match := LAYER.fullmatch(key):
            places.setdefault(match[1], set()).add(int(match[4]))
    return {prefix: sorted(numbers) for prefix, numbers in places.items()}


def _normalised(state_dict: Mapping[str, Tensor], key: str) -> Tensor:
    direction, length = state_dict[key], state_dict.get(key.removesuffix('_v') + '_g')
    if length is None:
        raise CheckpointMismatchError(f'{key} has no weight_g beside it: the checkpoint is incomplete')
    axes = tuple(range(1, direction.dim()))
    if not axes or length.shape != (len(direction), *(1 for _ in axes)):
        raise CheckpointMismatchError(
            f'{key} is {tuple(direction.shape)} and its weight_g {tuple(length.shape)}: they are not of one layer. '
            f'{WANTED}'
        )
    # As torch's weight_norm over the first axis.
    return torch.clone(direction * (length / torch.linalg.vector_norm(direction, dim=axes, keepdim=True)))
