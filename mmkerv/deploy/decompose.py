"""Decompose the convolutions of a trained network into low-rank ones, where that saves weights and time."""

import copy
import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from mmkerv.deploy.compared_outputs import OutputKind, computable
from mmkerv.deploy.fold import likely_shapes, require_other_files
from mmkerv.deploy.model_outputs import RawOutputs, largest_difference, sample_inputs
from mmkerv.deploy.trained_model import build_model
from mmkerv.engine.checkpoint.atomic_write import atomic_path, save_checkpoint
from mmkerv.engine.checkpoint.layouts import weights_of
from mmkerv.engine.checkpoint.pretrained import PRETRAINED
from mmkerv.engine.checkpoint.safe_load import safe_load
from mmkerv.engine.config.write import by_name
from mmkerv.errors import ConfigError, FoldCheckError
from mmkerv.models.placement import Where, selected
from mmkerv.models.replacement import Operator, peculiarity
from mmkerv.ops import LowRankConv2d
from mmkerv.ops.core.references import replace_modules
from mmkerv.registry import local_name
from mmkerv.utils import layer_input

# Times a layer is run before it is timed, and while it is.
WARMUP, REPEATS = 2, 9
# Largest difference between the decomposed network and the one that the written files give, in float32.
TOLERANCE = 1e-4

Timer = Callable[[Sequence[nn.Module], Sequence[Tensor]], list[float]]


class Layer(NamedTuple):
    """A convolution before and after.

    Args:
        name: of the convolution in the network.
        kernel: sizes (O, C/groups, kH, kW) of its weight.
        ranks: ranks of the decomposition; ``None`` if it was not computed.
        error: :math:`|K - W| / |W|`.
        weights: numbers of weights before and after.
        macs: multiply-adds for one image.
        seconds: measured times of a forward pass for one image.
        kept: why it stays plain, ``''`` if it does not.

    Example:
        >>> Layer('conv1', (8, 8, 3, 3), (4, 4), 0.2, (576, 208), (36864, 13312), (2e-4, 3e-4), 'slower').kept
        'slower'
    """

    name: str
    kernel: tuple[int, ...]
    ranks: tuple[int, int] | None = None
    error: float = float('nan')
    weights: tuple[int, int] = (0, 0)
    macs: tuple[int, int] = (0, 0)
    seconds: tuple[float, float] = (float('nan'), float('nan'))
    kept: str = ''


@torch.no_grad()
def median_seconds(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[float]:
    """Return the median time of a forward pass on all inputs, for each layer; the layers take turns.

    Args:
        layers: layers to time.
        inputs: what each is called with, one after the other.

    Example:
        >>> len(median_seconds([nn.Conv2d(3, 8, 3), nn.Identity()], [torch.ones(1, 3, 9, 9)]))
        2
    """
    times: list[list[float]] = [[] for _ in layers]
    for repeat in range(WARMUP + REPEATS):
        for layer, taken in zip(layers, times):
            start = time.perf_counter()
            for x in inputs:
                layer(x)
            if repeat >= WARMUP:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


@torch.no_grad()
def decompose_layers(
    model: nn.Module,
    conv_cfg: dict[str, Any],
    rule: Where,
    shape: tuple[int, int],
    error: float | None = None,
    timer: Timer = median_seconds,
    kind: OutputKind | None = None,
) -> list[Layer]:
    """Replace convolutions by low-rank ones, in place, unless they would gain nothing.

    A layer stays plain if it has no fewer weights afterwards, if it is not faster, if its relative error is above
    ``error``, if it shares its weight with another layer, or if no image reaches it.

    Args:
        model: trained network in evaluation mode.
        conv_cfg: ``dict(type='mmkerv.LowRankConv', ...)``.
        rule: which convolutions to try.
        shape: height and width of the image for which the layers are timed.
        error: largest relative error of a layer.
        timer: returns the times of layers on some inputs.
        kind: what the model computes from an image, as :func:`mmkerv.deploy.compared_outputs.computable` finds it; by
            default its raw outputs.

    Returns:
        A row for each convolution that ``rule`` selects.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(64, 64, 3, bias=False)).eval()
        >>> cfg = dict(type='mmkerv.LowRankConv', rank=0.25)
        >>> rows = decompose_layers(model, cfg, Where(), (9, 9), timer=lambda layers, inputs: [2.0, 1.0])
        >>> [(row.weights, row.kept) for row in rows], type(model[0]).__name__
        ([((36864, 9187), '')], 'LowRankConv2d')
    """
    inputs, samples = next(sample_inputs(model, shape))
    shapes: dict[nn.Module, list[torch.Size]] = {}
    convs = selected(model, rule, (nn.Conv2d,))

    def record(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        shapes.setdefault(module, []).append(layer_input(args, kwargs).shape)

    handles = [conv.register_forward_hook(record, with_kwargs=True) for conv in convs.values()]
    try:
        if kind is None:
            RawOutputs(model, samples).eval()(inputs)
        else:
            kind.of(model, inputs, samples)
    finally:
        for handle in handles:
            handle.remove()
    operator, rows, replaced, holders = Operator.of(conv_cfg), [], {}, _holders(model)
    for name, conv in convs.items():
        if others := [holder for holder in holders.get(conv.weight, ()) if holder != name]:
            rows.append(Layer(name, tuple(conv.weight.shape), kept=f'shares its weight with {others[0]}'))
            continue
        row, new = _tried(name, conv, operator, shapes.get(conv, []), error, timer)
        rows.append(row)
        if new is not None and not row.kept:
            replaced[conv] = new
    if stuck := replace_modules(model, replaced):
        raise ConfigError(
            f'{len(stuck)} convolutions, such as one in {next(iter(stuck.values()))}, are also used where they cannot '
            'be replaced; leave them out with --where'
        )
    return rows


def _holders(model: nn.Module) -> dict[Tensor, list[str]]:
    """Return the names of the modules that hold each parameter. A module that is used twice has one name."""
    holders: dict[Tensor, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in dict.fromkeys(module.parameters(recurse=False)):
            holders.setdefault(parameter, []).append(name)
    return holders


def _tried(
    name: str, conv: nn.Conv2d, operator: Operator, shapes: list[torch.Size], error: float | None, timer: Timer
) -> tuple[Layer, LowRankConv2d | None]:
    """Return the row of one convolution, and its replacement if there is one."""
    row = Layer(name, tuple(conv.weight.shape))
    if not shapes:
        return row._replace(kept='not computed for an image'), None
    if special := peculiarity(conv):
        return row._replace(kept=f'class {special}'), None
    new = operator.replacement(name, conv)
    if new is None:
        return row._replace(kept='depthwise' if conv.in_channels > 1 else 'one input channel'), None
    weights = conv.weight.numel(), sum(p.numel() for p in new.own_parameters().values())
    row = row._replace(ranks=new.ranks, weights=weights, macs=(_macs(conv, shapes), _macs(new.to_conv2d(), shapes)))
    if weights[1] >= weights[0]:
        return row._replace(kept='no fewer weights'), None
    row = row._replace(error=new.decompose(conv.weight))
    inputs = [torch.randn(size, dtype=conv.weight.dtype, device=conv.weight.device) for size in shapes]
    before, after = timer([conv, new], inputs)
    row = row._replace(seconds=(before, after))
    if error is not None and row.error > error:
        row = row._replace(kept=f'error above {error:g}')
    elif after >= before:
        row = row._replace(kept='slower')
    return row, new


def _macs(layer: nn.Module, shapes: list[torch.Size]) -> int:
    """Return the multiply-adds of a convolution, or of convolutions in a row, on inputs of some shapes."""
    layer, count = copy.deepcopy(layer).to('meta'), 0

    def add(module: nn.Conv2d, _: tuple, output: Tensor) -> None:
        nonlocal count
        count += module.weight.numel() * output.shape[0] * output.shape[2] * output.shape[3]

    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    for size in shapes:
        layer(torch.empty(size, device='meta', dtype=next(layer.parameters()).dtype))
    return count


def decompose_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    out: str | Path,
    *,
    rate: float,
    decomposition: str = 'tucker2',
    where: dict[str, Any] | None = None,
    error: float | None = None,
    shape: tuple[int, int] | None = None,
    trust: bool = False,
    timer: Timer = median_seconds,
) -> list[Layer]:
    """Decompose the convolutions of a trained network; write ``out`` and its config, ``out`` with suffix ``.py``.

    The config starts a training from ``out``, by its name in the folder of the config, and has no other pretrained
    weights. Nothing is written unless the network that it builds computes, with the weights written, what the
    decomposed one computes.

    Args:
        cfg: config the checkpoint was trained with.
        checkpoint: checkpoint of that network.
        out: ``.pth`` file to write.
        rate: how many times fewer weights each decomposed layer has, > 1.
        decomposition: as in :class:`mmkerv.ops.LowRankConv2d`.
        where: which convolutions to try, by default all, see :class:`mmkerv.models.placement.Where`.
        error: largest relative error of a layer; layers above it stay plain.
        shape: height and width of the image for which the layers are timed; by default those of the test pipeline.
        trust: as in :func:`mmkerv.engine.safe_load`.
        timer: as in :func:`decompose_layers`.

    Returns:
        A row for each convolution that ``where`` selects.

    Raises:
        ConfigError: if ``rate`` or ``error`` is out of range, every layer stays plain, or ``out`` or its config would
            overwrite what is read.
        CheckpointMismatchError: if the checkpoint does not fit the network.
        FoldCheckError: if the written config gives another network.

    Example:
        >>> rows = decompose_checkpoint(cfg, 'epoch_12.pth', 'low_rank.pth', rate=2)  # doctest: +SKIP
    """
    if not 1 < rate < math.inf:
        raise ConfigError(f'--rate must be a finite number > 1, got {rate:g}: it divides the weights of each layer')
    if error is not None and not 0 < error <= 1:
        raise ConfigError(f'--error must be in (0, 1], got {error:g}: it is relative to the norm of the weight')
    require_other_files(cfg, checkpoint, out)
    loaded = safe_load(checkpoint, trust=trust)
    model = build_model(cfg, weights_of(loaded, str(checkpoint)), str(checkpoint)).float()
    conv_cfg = {'type': 'mmkerv.LowRankConv', 'decomposition': decomposition, 'rank': 1 / rate}
    rule = Where.of({'kernel_sizes': 'all', **(where or {})})
    kind, shape = computable(model, [shape] if shape else likely_shapes(cfg, model))
    rows = decompose_layers(model, conv_cfg, rule, shape, error, timer, kind)
    names = [row.name for row in rows if not row.kept]
    if not names:
        reasons = sorted({row.kept for row in rows}) or ['where selects none']
        raise ConfigError(
            f'all {len(rows)} convolutions stay plain ({", ".join(reasons)}); use another --rate or --decomposition, '
            'or select others with --where'
        )
    # In the folder of the config, wherever it is read from; mmengine fills that in.
    new_cfg = decomposed_config(cfg, conv_cfg, names, f'{{{{ fileDirname }}}}/{Path(out).name}')
    rebuilt = build_model(new_cfg, model.state_dict(), f'{checkpoint} (decomposed)').float()
    inputs, samples = next(sample_inputs(model, shape))
    difference = largest_difference(kind.of(model, inputs, samples), kind.of(rebuilt, inputs, samples))
    if not difference <= TOLERANCE:
        raise FoldCheckError(
            f'{checkpoint}: the network of the new config differs by {difference:.2e} of the largest output; nothing '
            'was written. Please report this with the config'
        )
    meta = loaded.get('meta') if 'state_dict' in loaded else None
    meta = {k: v for k, v in meta.items() if k != 'cfg'} if isinstance(meta, dict) else {}
    meta['cfg'] = new_cfg.pretty_text
    with atomic_path(Path(out).with_suffix('.py')) as config:
        config.write_text(new_cfg.pretty_text, encoding='utf-8')
        save_checkpoint({'meta': meta, 'state_dict': rebuilt.state_dict()}, out)
    return rows


def decomposed_config(cfg: Config, conv_cfg: dict[str, Any], names: Sequence[str], load_from: str) -> Config:
    """Return the config of a network in which some convolutions are low-rank, trained on from ``load_from``.

    Each part of the model with such convolutions (backbone, neck, head) becomes a ``mmkerv.Converted``.

    Args:
        cfg: config of the plain network.
        conv_cfg: of the low-rank convolutions.
        names: of these convolutions in the model.
        load_from: checkpoint to train from.

    Example:
        >>> cfg = Config(dict(model=dict(backbone=dict(type='ResNet', depth=18))))
        >>> new = decomposed_config(cfg, dict(type='mmkerv.LowRankConv'), ['backbone.conv1'], 'a.pth')
        >>> new.model.backbone.where
        {'names': ['^conv1$'], 'kernel_sizes': 'all'}
    """
    result = by_name(copy.deepcopy(cfg))
    root = ConfigDict(model=_without_pretrained(result.model))
    parts: dict[tuple, list[str]] = {}
    for name in names:
        place, rest = _part(root.model, name)
        parts.setdefault(place, []).append(rest)
    if () in parts:
        parts = {(): list(names)}
    for place, rests in parts.items():
        *path, last = ('model', *place)
        parent = root
        for key in path:
            parent = parent[key]
        where = {'names': [f'^{re.escape(rest)}$' for rest in rests], 'kernel_sizes': 'all'}
        parent[last] = dict(type='mmkerv.Converted', model=parent[last], conv_cfg=dict(conv_cfg), where=where)
    result.model = root.model
    result.load_from, result.resume = load_from, False
    imports = result.get('custom_imports') or {'imports': [], 'allow_failed_imports': False}
    listed = [imports['imports']] if isinstance(imports['imports'], str) else list(imports['imports'])
    imports['imports'] = listed if 'mmkerv' in listed else [*listed, 'mmkerv']
    result.custom_imports = imports
    return result


def _part(model: Any, name: str) -> tuple[tuple, str]:
    """Return where in the config a convolution's part of the model is, and the convolution's name within the part."""
    first, _, rest = name.partition('.')
    part = model.get(first)
    if local_name(model.get('type'), ('mmkerv',)) == 'Converted' or not rest:
        return (), name
    if isinstance(part, dict) and 'type' in part:
        return (first,), rest
    index, _, rest = rest.partition('.')
    if isinstance(part, list) and index.isdecimal() and int(index) < len(part) and rest:
        return (first, int(index)), rest
    return (), name


def _without_pretrained(node: Any) -> Any:
    """Return a part of a config that starts from no checkpoint: all weights come from the decomposed one."""
    if isinstance(node, dict):
        kept = {}
        for key, value in dict.items(node):
            if _is_pretrained(value) or (key == 'pretrained' and isinstance(value, str)):
                kept[key] = None
            elif key == 'pretrained' and value is True:
                kept[key] = False
            elif key == 'checkpoint_path' and isinstance(value, str):
                # Of TIMMBackbone, which takes an empty one for none.
                kept[key] = ''
            else:
                kept[key] = _without_pretrained(value)
        return ConfigDict(kept)
    if isinstance(node, (list, tuple)) and not hasattr(node, '_fields'):
        parts = [_without_pretrained(part) for part in node if not _is_pretrained(part)]
        # An initialiser out of a list of one.
        return type(node)(parts) if parts or not node else None
    return node


def _is_pretrained(node: Any) -> bool:
    return isinstance(node, dict) and local_name(node.get('type'), ('', 'mmengine')) in PRETRAINED
