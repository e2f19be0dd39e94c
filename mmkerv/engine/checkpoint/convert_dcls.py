"""Conversion of the DCLS authors' ConvNeXt checkpoints to the parameter names of mmpretrain's or timm's ConvNeXt."""

import re
from collections.abc import Mapping

from torch import Tensor

from mmkerv.engine.checkpoint.finite import require_finite
from mmkerv.errors import CheckpointMismatchError
from mmkerv.ops.core.arguments import one_of
from mmkerv.ops.dcls import VERSIONS, WITH_WIDTH
from mmkerv.utils import log, printable

# (authors' name, ours) of what is no layer with learnable spacings.
MMPRETRAIN = (
    (r'downsample_layers\.(\d+\.\d+\.\w+)', r'backbone.downsample_layers.\1'),
    (r'stages\.(\d+\.\d+)\.dwconv\.(\w+)', r'backbone.stages.\1.depthwise_conv.\2'),
    (r'stages\.(\d+\.\d+)\.pwconv([12])\.(\w+)', r'backbone.stages.\1.pointwise_conv\2.\3'),
    (r'stages\.(\d+\.\d+\.(?:norm\.\w+|gamma))', r'backbone.stages.\1'),
    # The norms of the outputs, in detectors and segmentors, and of the classifier.
    (r'norm(\d)\.(\w+)', r'backbone.norm\1.\2'),
    (r'norm\.(\w+)', r'backbone.norm3.\1'),
    (r'head\.(\w+)', r'head.fc.\1'),
)
TIMM = (
    (r'downsample_layers\.0\.(\d+)\.(\w+)', r'timm_model.stem_\1.\2'),
    (r'downsample_layers\.(\d+)\.(\d+\.\w+)', r'timm_model.stages_\1.downsample.\2'),
    (r'stages\.(\d+)\.(\d+)\.dwconv\.(\w+)', r'timm_model.stages_\1.blocks.\2.conv_dw.\3'),
    (r'stages\.(\d+)\.(\d+)\.pwconv([12])\.(\w+)', r'timm_model.stages_\1.blocks.\2.mlp.fc\3.\4'),
    (r'stages\.(\d+)\.(\d+\.(?:norm\.\w+|gamma))', r'timm_model.stages_\1.blocks.\2'),
    (r'norm\.(\w+)', r'timm_model.head.norm.\1'),
    (r'head\.(\w+)', r'timm_model.head.fc.\1'),
)
LAYOUTS = {'mmpretrain': MMPRETRAIN, 'timm': TIMM}
# The norms of the outputs in the authors' detectors and segmentors, which timm's features do not have.
OUTPUT_NORMS = re.compile(r'norm\d\.\w+')
# The authors' names of the parameters of a layer with learnable spacings, and ours.
PARAMETERS = {'weight': 'values', 'P': 'positions', 'SIG': 'width', 'bias': 'bias'}
EXPECTED = (
    "The file must be the state dict of the authors' ConvNeXt-dcls (names such as stages.0.0.dwconv.P), or of its "
    'backbone in their detectors and segmentors'
)


def convert_dcls(
    state_dict: Mapping[str, Tensor], version: str = 'v0', source: str = 'the file', layout: str = 'mmpretrain'
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename the parameters of a ConvNeXt-dcls of the authors, and put vertical positions before horizontal ones.

    Their layers have ``weight`` (C, 1, n), ``P`` (2, C, 1, n) and with ``'max'`` and ``'gauss'`` ``SIG`` of the same
    shape. In version ``'v0'``, that of the published checkpoints, P has vertical positions first, in the others
    horizontal ones.

    Args:
        state_dict: of the authors' network; ``backbone.`` before the names, and a detector's or segmentor's other
            parts, are allowed, and the other parts are left out.
        version: interpolation that the network was trained with.
        source: name of the checkpoint, for messages.
        layout: ``'mmpretrain'`` for an ``ImageClassifier`` with mmpretrain's ConvNeXt, or ``'timm'`` for
            ``mmkerv.TimmBackbone``, which leaves out the head, and has no norms of the outputs: those of detectors and
            segmentors are left out, and the log names them.

    Returns:
        The parameters of the network with ``DCLSConv`` and ``points=n`` in place of its depthwise convolutions, and our
        name for each of the authors'.

    Raises:
        CheckpointMismatchError: naming keys without a place, or a layer that is not of this version.
        NonFiniteWeightsError: if a parameter holds NaN or infinite numbers.
        ValueError: for an unknown version or layout.

    Example:
        >>> import torch
        >>> layer = {'weight': torch.ones(4, 1, 3), 'P': torch.zeros(2, 4, 1, 3), 'bias': torch.zeros(4)}
        >>> converted, _ = convert_dcls({f'stages.0.0.dwconv.{name}': value for name, value in layer.items()})
        >>> [name.removeprefix('backbone.stages.0.0.') for name in converted]
        ['depthwise_conv.values', 'depthwise_conv.positions', 'depthwise_conv.bias']
    """
    one_of(version, 'version', VERSIONS)
    renames = LAYOUTS[one_of(layout, 'layout', tuple(LAYOUTS))]
    for key, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise CheckpointMismatchError(f'{printable(key)} is a {type(value).__name__}, not a tensor: {EXPECTED}')
    inner = any(key.startswith('backbone.') for key in state_dict)
    given = {key: key.removeprefix('backbone.') for key in state_dict if not inner or key.startswith('backbone.')}
    layers = {name.removesuffix('P') for name in given.values() if re.fullmatch(r'stages\.\d+\.\d+\.dwconv\.P', name)}
    if not layers:
        raise CheckpointMismatchError(f'checkpoint {source!r} has no positions. {EXPECTED}')
    values = {name: state_dict[key] for key, name in given.items()}
    for layer in sorted(layers):
        _check(layer, values, version, source)
    require_finite(values, source)
    converted, names, unmapped = {}, {}, []
    for key, name in given.items():
        place = next((re.fullmatch(p, name).expand(ours) for p, ours in renames if re.fullmatch(p, name)), None)
        if place is None:
            unmapped.append(key)
            continue
        layer, _, parameter = name.rpartition('.')
        value = values[name]
        if f'{layer}.' in layers:
            place = f'{place.rpartition(".")[0]}.{PARAMETERS[parameter]}'
            if parameter in ('P', 'SIG') and version != 'v0':
                value = value.flip(0)
        names[key], converted[place] = place, value
    if layout == 'timm' and (norms := [key for key in unmapped if OUTPUT_NORMS.fullmatch(given[key])]):
        unmapped = [key for key in unmapped if key not in norms]
        log(
            f"mmkerv: left out {_parameters(norms)} of the norms of the outputs, which timm's features do not have: "
            f'{_listed(norms)}'
        )
    if unmapped:
        verb = 'has' if len(unmapped) == 1 else 'have'
        raise CheckpointMismatchError(
            f'{_parameters(unmapped)} {verb} no place in a ConvNeXt: {_listed(unmapped)}. {EXPECTED}'
        )
    return converted, names


def _parameters(keys: list[str]) -> str:
    return f'{len(keys)} parameter{"" if len(keys) == 1 else "s"}'


def _listed(keys: list[str]) -> str:
    return ', '.join([*map(printable, keys[:8]), *(['...'] if len(keys) > 8 else [])])


def _check(layer: str, values: Mapping[str, Tensor], version: str, source: str) -> None:
    """Check the parameters of one layer against each other and the version."""
    unknown = [name for name in values if name.startswith(layer) and name.removeprefix(layer) not in PARAMETERS]
    weight, positions, width = (values.get(f'{layer}{name}') for name in ('weight', 'P', 'SIG'))
    tensors = [positions] if width is None else [positions, width]
    fits = weight is not None and weight.dim() == 3 and all(t.shape == (2, *weight.shape) for t in tensors)
    if unknown or not fits:
        shapes = {name: tuple(value.shape) for name, value in values.items() if name.startswith(layer)}
        raise CheckpointMismatchError(
            f'checkpoint {source!r}: {layer}weight must be (C, 1, n) and P (2, C, 1, n), got {shapes}. {EXPECTED}'
        )
    if (width is not None) != (version in WITH_WIDTH):
        has = 'has' if width is not None else 'lacks'
        fitting = ', '.join(v for v in VERSIONS if (v in WITH_WIDTH) == (width is not None))
        raise CheckpointMismatchError(
            f'checkpoint {source!r} {has} {layer}SIG, so it is not of version {version!r}; give --version, one of '
            f'{fitting}'
        )
