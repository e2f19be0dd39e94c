"""State dicts of the authors' FDConv, read into ours."""

from typing import Any

import torch
from torch import Tensor

from mmkerv.errors import CheckpointMismatchError
from mmkerv.ops.fdconv.bands import spectrum_size

PARTS = {
    'KSM_Global.fc.': 'squeeze.',
    'KSM_Global.bn.': 'squeeze.norm.',
    'KSM_Global.relu.scale': 'squeeze.scale',
    'KSM_Global.relu.bias': 'squeeze.shift',
    'KSM_Global.channel_fc.': 'channel_gate.',
    'KSM_Global.filter_fc.': 'filter_gate.',
    'KSM_Global.spatial_fc.': 'spatial_gate.',
    'KSM_Global.kernel_fc.': 'band_gate.',
    'KSM_Local.conv.': 'local_gate.',
    'KSM_Local.norm.': 'local_norm.',
}
MAPS = 'FBM.freq_weight_conv_list.'
SPECTRUM = 'dft_weight'


def read_official(layer: Any, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Replace the entries of the authors' layer in a state dict by those of ``layer``, in place.

    Args:
        layer: an ``FDConv2d``.
        state_dict: anything; without entries of the authors' layer it stays as it is.
        prefix: of the layer's keys.

    Raises:
        CheckpointMismatchError: if the layer's options are not those of the authors' code, or the spectrum has another
            shape than theirs with ``param_ratio=1, param_reduction=1``.

    Example:
        >>> from mmkerv.ops import FDConv2d
        >>> state = {'dft_weight': torch.zeros(1, 96, 49, 2)}
        >>> read_official(FDConv2d(32, 32, 3, gate_norm='bn', band_order='official'), state, '')
        >>> state['weight'].shape
        torch.Size([32, 32, 3, 3])
    """
    theirs = (*PARTS, MAPS, SPECTRUM)
    keys = [key for key, value in state_dict.items() if key.startswith(prefix) and isinstance(value, Tensor)]
    keys = [key for key in keys if key.removeprefix(prefix).startswith(theirs)]
    if not keys:
        return
    options = layer.options
    if options.ksm_global and (options.gate_norm, options.band_order) != ('bn', 'official'):
        raise CheckpointMismatchError(
            f"{keys[0]} is from the authors' FDConv, which has batch norms and its own order of frequencies, but the "
            f'layer was built with gate_norm={options.gate_norm!r}, band_order={options.band_order!r}; build it with '
            "gate_norm='bn', band_order='official'"
        )
    maps: dict[str, dict[int, Tensor]] = {}
    for key in keys:
        name, value = key.removeprefix(prefix), state_dict.pop(key)
        if name == SPECTRUM:
            state_dict[f'{prefix}weight'] = _weight(layer, key, value)
        elif name.startswith(MAPS):
            number, _, kind = name.removeprefix(MAPS).partition('.')
            maps.setdefault(kind, {})[int(number)] = value
        else:
            part = next(part for part in PARTS if name.startswith(part))
            # Their linear layers are convolutions 1x1, and their taps along the channels have an axis of one channel.
            shaped = value.flatten(1) if name.endswith('fc.weight') or name == 'KSM_Local.conv.weight' else value
            state_dict[prefix + PARTS[part] + name.removeprefix(part)] = shaped
    for kind, values in maps.items():
        state_dict[f'{prefix}band_maps.{kind}'] = torch.cat([values[number] for number in sorted(values)])


def _weight(layer: Any, key: str, spectrum: Tensor) -> Tensor:
    """Return the kernel (O, C, kH, kW) of a spectrum (1, O kH, C kW // 2 + 1, 2), divided by min(O, C) // 2."""
    rows, columns = spectrum_size(layer.weight.shape, 1)
    expected = (1, rows, columns // 2 + 1, 2)
    if tuple(spectrum.shape) != expected:
        raise CheckpointMismatchError(
            f'{key} has shape {tuple(spectrum.shape)}, but a layer of this shape with param_ratio=1 and '
            f"param_reduction=1 has {expected}; other settings of the authors' code cannot be read"
        )
    complex_spectrum = torch.view_as_complex(spectrum[0].float().contiguous())
    matrix = torch.fft.irfft2(complex_spectrum * (min(layer.out_channels, layer.in_channels) // 2), s=(rows, columns))
    outputs, width, height, across = layer.weight.shape
    return matrix.view(outputs, height, width, across).transpose(1, 2).contiguous()
