"""Names of the released UniRepLKNet checkpoints for the weights of ``mmkerv.UniRepLKNet``."""

import re
from collections.abc import Mapping

from torch import Tensor

from mmkerv.errors import CheckpointMismatchError
from mmkerv.models.zoo.unireplknet import LARGE

# (ours, the released name) below a block.
NAMES = (
    (r'\.dwconv\.basic\.norm\.', '.dwconv.origin_bn.'),
    (r'\.dwconv\.parallel\.k(\d+)x\1d(\d+)\.norm\.', r'.dwconv.dil_bn_k\1_\2.'),
    (r'\.dwconv\.parallel\.k(\d+)x\1d(\d+)\.', r'.dwconv.dil_conv_k\1_\2.'),
)
BACKBONE, HEAD = 'backbone.', 'head.fc.'
LAST_NORM = re.compile(r'norm3\.')


def released_names(state_dict: Mapping[str, Tensor], source: str = 'the file') -> dict[str, Tensor]:
    """Rename the weights of a network with ``mmkerv.UniRepLKNet`` as the public code names them.

    A training layout stays one (``lk_origin``, ``origin_bn``, ``dil_conv_k5_1``, ``dil_bn_k5_1``), a merged one too.
    A classifier's names have no ``backbone.``, its norm is ``norm`` and its layer ``head``; a detector's or segmentor's
    keep theirs.

    Args:
        state_dict: of the backbone, or of a classifier, detector or segmentor around it.
        source: name of the checkpoint, for messages.

    Raises:
        CheckpointMismatchError: if it is not of such a network.

    Example:
        >>> import torch
        >>> ours = {'backbone.stages.1.0.dwconv.weight': torch.zeros(80, 1, 13, 13), 'head.fc.bias': torch.zeros(10)}
        >>> list(released_names(ours))
        ['stages.1.0.dwconv.lk_origin.weight', 'head.bias']
    """
    inside = [key for key in state_dict if key.startswith(BACKBONE)]
    classifier = all(key.startswith((BACKBONE, HEAD)) for key in state_dict)
    if not any(re.match(r'(backbone\.)?stages\.\d+\.\d+\.dwconv\.', key) for key in state_dict):
        raise CheckpointMismatchError(
            f'checkpoint {source!r} is not of mmkerv.UniRepLKNet: it has no names such as stages.1.0.dwconv.weight'
        )
    bare = classifier or not inside
    outputs = {match[1] for key in state_dict if (match := re.match(r'(?:backbone\.)?(norm\d)\.', key))}
    large = {
        key.rpartition('.')[0]
        for key, value in state_dict.items()
        if key.endswith('.dwconv.weight') and value.shape[-1] >= LARGE
    }
    renamed = {}
    for key, value in state_dict.items():
        name = key
        layer, _, parameter = key.rpartition('.')
        if layer in large:
            name = f'{layer}.lk_origin.{parameter}'
        for pattern, theirs in NAMES:
            name = re.sub(pattern, theirs, name)
        if bare:
            name = name.removeprefix(BACKBONE)
            if name.startswith(HEAD):
                name = f'head.{name.removeprefix(HEAD)}'
            if outputs == {'norm3'}:
                name = LAST_NORM.sub('norm.', name) if name.startswith('norm3.') else name
        renamed[name] = value
    return renamed
