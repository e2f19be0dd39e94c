"""Conversion of the CKConv authors' checkpoints to the parameter names of ``mmkerv.CKCNN``."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.errors import CheckpointMismatchError
from mmkerv.utils import printable

# (authors' name, ours), for all but the layers of kernel nets.
RENAMES = (
    (r'backbone\.(\d+)\.cconv(\d)\.bias', r'backbone.blocks.\1.conv\2.bias'),
    (r'backbone\.(\d+)\.norm(\d)\.layer_norm\.(weight|bias)', r'backbone.blocks.\1.norm\2.\3'),
    (r'backbone\.(\d+)\.shortcut\.0\.(weight|bias)', r'backbone.blocks.\1.shortcut.\2'),
    (r'finallyr\.(weight|bias)', r'head.fc.\1'),
)
EXPECTED = (
    "The file must be the state dict of the CKConv authors' CKCNN (names such as "
    'backbone.0.cconv1.Kernel.kernel_net.0.weight_g)'
)
# A layer of a kernel net, which the authors name by its index in a Sequential.
KERNEL_NET_LAYER = re.compile(r'(backbone\.(\d+)\.cconv(\d)\.Kernel\.kernel_net\.)(\d+)\.(weight(?:_[gv])?|bias)')


def convert_ckconv(
    state_dict: Mapping[str, Tensor], source: str = 'the file'
) -> tuple[dict[str, Tensor], dict[str, str]]:
    r"""Rename the parameters of a CKCNN of the authors and resolve its weight normalisation, :math:`w = g v / |v|`.

    Args:
        state_dict: of the authors' ``CKCNN``.
        source: name of the checkpoint, for messages.

    Returns:
        The parameters of an mmpretrain ``ImageClassifier`` with ``mmkerv.CKCNN`` and ``LinearClsHead``, and our name
        for each of the authors'.

    Raises:
        CheckpointMismatchError: naming the keys that our network lacks, or an incomplete weight normalisation.
        NonFiniteWeightsError: if a parameter holds NaN or infinite numbers.

    Example:
        >>> convert_ckconv({'finallyr.bias': torch.zeros(10)})[1]
        {'finallyr.bias': 'head.fc.bias'}
    """
    for key, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise CheckpointMismatchError(f'{printable(key)} is a {type(value).__name__}, not a tensor: {EXPECTED}')
    require_finite(state_dict, source)
    indices = _linear_layer_indices(state_dict)
    converted, names, unmapped = {}, {}, []
    for key, value in state_dict.items():
        if match := KERNEL_NET_LAYER.fullmatch(key):
            prefix, block, conv, index, kind = match.groups()
            layer = indices[prefix].index(int(index))
            names[key] = f'backbone.blocks.{block}.conv{conv}.kernel_net.layers.{layer}.{kind.partition("_")[0]}'
            if kind == 'weight_g':
                continue
            if kind == 'weight_v':
                value = _normalised_weight(state_dict, key)
            # The authors' linear layers are 1x1 convolutions over the positions.
            converted[names[key]] = value.squeeze(-1) if value.dim() == 3 else value
            continue
        for pattern, ours in RENAMES:
            if match := re.fullmatch(pattern, key):
                names[key] = match.expand(ours)
                converted[names[key]] = value
                break
        else:
            unmapped.append(key)
    if unmapped or not names:
        listed = ', '.join([*map(printable, unmapped[:8]), *(['...'] if len(unmapped) > 8 else [])]) or 'nothing'
        raise CheckpointMismatchError(f'{len(unmapped)} parameters have no place in mmkerv.CKCNN: {listed}. {EXPECTED}')
    require_finite(converted, source)
    return converted, names


def _linear_layer_indices(state_dict: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return the indices of each kernel net's linear layers in its Sequential, between norms and activations."""
    indices: dict[str, set[int]] = {}
    for key in state_dict:
        if match := KERNEL_NET_LAYER.fullmatch(key):
            indices.setdefault(match[1], set()).add(int(match[4]))
    return {prefix: sorted(numbers) for prefix, numbers in indices.items()}


def _normalised_weight(state_dict: Mapping[str, Tensor], key: str) -> Tensor:
    direction, length = state_dict[key], state_dict.get(key.removesuffix('_v') + '_g')
    if length is None:
        raise CheckpointMismatchError(f'{key} has no weight_g beside it: the checkpoint is incomplete')
    axes = tuple(range(1, direction.dim()))
    if not axes or length.shape != (len(direction), *(1 for _ in axes)):
        raise CheckpointMismatchError(
            f'{key} is {tuple(direction.shape)} and its weight_g {tuple(length.shape)}: they are not of one layer. '
            f'{EXPECTED}'
        )
    # As torch.nn.utils.weight_norm with dim=0.
    return torch.clone(direction * (length / torch.linalg.vector_norm(direction, dim=axes, keepdim=True)))
