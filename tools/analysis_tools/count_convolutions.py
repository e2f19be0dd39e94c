"""Counts of replaced and kept convolutions in the advertised networks, for ``list_networks.py``."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmkerv.distributions import TESTED, distribution, version
from mmkerv.models.inventory import inventory
from mmkerv.models.upstream_backbones import LIBRARIES, find_library

# The first operators; what replaces the same convolutions shares a row of the table.
OPERATORS = ('CoCConv', 'KervConv', 'CKConv')


def hrnet(width: int) -> dict[str, Any]:
    """Return the argument ``extra`` of an HRNet for mmdetection and mmsegmentation."""

    def stage(modules: int, branches: int) -> dict[str, Any]:
        channels = tuple(width * 2**i for i in range(branches))
        return dict(
            num_modules=modules,
            num_branches=branches,
            block='BASIC',
            num_blocks=(4,) * branches,
            num_channels=channels,
        )

    first = dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(4,), num_channels=(64,))
    return dict(stage1=first, stage2=stage(1, 2), stage3=stage(4, 3), stage4=stage(3, 4))


# The counts do not depend on the width, and narrow networks are built sooner.
_NARROW = dict(base_channels=16, stem_channels=16)
# Built as mmkerv's variant of every library's network, with the default `where`.
BACKBONES: dict[str, dict[str, Any]] = {
    'ResNet-18': dict(type='ResNet', depth=18, **_NARROW),
    'ResNet-50': dict(type='ResNet', depth=50, **_NARROW),
    'ResNetV1c-50': dict(type='ResNetV1c', depth=50, **_NARROW),
    'ResNetV1d-50': dict(type='ResNetV1d', depth=50, **_NARROW),
    'HRNet-w18': dict(type='HRNet', extra=hrnet(18)),
    'ShuffleNetV2-1x': dict(type='ShuffleNetV2'),
    'MobileNetV2': dict(type='MobileNetV2'),
    'MobileNetV3-small': dict(type='MobileNetV3', arch='small'),
    'MobileNetV3-large': dict(type='MobileNetV3', arch='large'),
}

_FPN = dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=64, num_outs=5)
_HEAD = dict(in_channels=64, channels=32, num_classes=5)
# Upstream's necks and heads with `conv_cfg`: as many convolutions as in the papers' models, and narrow.
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    'FPN of RetinaNet': ('mmdet', dict(_FPN, start_level=1, add_extra_convs='on_input')),
    'FPN of Mask R-CNN': ('mmdet', _FPN),
    'HRFPN': ('mmdet', dict(type='HRFPN', in_channels=[18, 36, 72, 144], out_channels=64)),
    'RetinaHead': ('mmdet', dict(type='RetinaHead', in_channels=64, feat_channels=64, num_classes=5)),
    'FCNMaskHead': ('mmdet', dict(type='FCNMaskHead', in_channels=64, conv_out_channels=64, num_classes=5)),
    'FCNHead': ('mmseg', dict(type='FCNHead', **_HEAD)),
    'ASPPHead': ('mmseg', dict(type='ASPPHead', dilations=(1, 12, 24, 36), **_HEAD)),
    'UPerHead': ('mmseg', dict(_HEAD, type='UPerHead', in_channels=[64] * 4, in_index=[0, 1, 2, 3])),
}


class Counts(NamedTuple):
    """Numbers of a network's convolutions by kernel, such as ``'3x3 depthwise'``, largest kernel first.

    Args:
        replaced: the operators.
        kept: the plain convolutions.
    """

    replaced: dict[str, int]
    kept: dict[str, int]


class Row(NamedTuple):
    """Row of the table: the libraries and operators for which a network has the same counts.

    Args:
        network: name.
        libraries: names; ``'mmdet (mmpretrain)'`` is mmdetection's scope with mmpretrain's network.
        operators: types of the operators.
        counts: the counts.
    """

    network: str
    libraries: tuple[str, ...]
    operators: tuple[str, ...]
    counts: Counts


def count(model: nn.Module) -> Counts:
    """Count the two-dimensional convolutions of a network; a shared one counts once."""
    found = inventory(model)
    return Counts(_by_kernel(found.operators.values()), _by_kernel(kept.conv for kept in found.kept.values()))


def _by_kernel(convs: Iterable[nn.Module]) -> dict[str, int]:
    counts = Counter()
    for conv in convs:
        text = 'x'.join(map(str, conv.kernel_size))
        if conv.groups > 1:
            text += ' depthwise' if conv.groups == conv.in_channels else ' grouped'
        counts[-math.prod(conv.kernel_size), text] += 1
    return {text: number for (_, text), number in sorted(counts.items())}


def build(host: str, cfg: dict[str, Any], operator: str) -> nn.Module:
    """Build a network with an operator.

    Args:
        host: library whose scope is the default.
        cfg: config of the network.
        operator: type for ``conv_cfg``.
    """
    with DefaultScope.overwrite_default_scope(host):
        return MODELS.build({**cfg, 'conv_cfg': dict(type=operator)})


def backbones() -> list[Row]:
    """Count in mmkerv's variant of every backbone, in the scope of every library."""
    cases = []
    for network, cfg in BACKBONES.items():
        for host in LIBRARIES:
            builder = find_library(cfg['type'], host)
            library = host if builder == host else f'{host} ({builder})'
            cases.append((network, library, host, {**cfg, 'type': f'mmkerv.{cfg["type"]}'}))
    return rows(cases)


def parts() -> list[Row]:
    """Count in upstream's necks and heads with a ``conv_cfg``."""
    return rows([(network, host, host, cfg) for network, (host, cfg) in PARTS.items()])


def rows(cases: list[tuple[str, str, str, dict[str, Any]]]) -> list[Row]:
    """Build every case with every operator; libraries and operators with the same counts share a row.

    Args:
        cases: name of the network, name of the library, its scope, config.
    """
    libraries: dict[tuple, list[str]] = {}
    for network, library, host, cfg in cases:
        operators: dict[tuple, list[str]] = {}
        for operator in OPERATORS:
            operators.setdefault(_hashable(count(build(host, cfg, operator))), []).append(operator)
        for counts, same in operators.items():
            libraries.setdefault((network, tuple(same), counts), []).append(library)
    return [
        Row(network, tuple(same), operators, Counts(*map(dict, counts)))
        for (network, operators, counts), same in libraries.items()
    ]


def _hashable(counts: Counts) -> tuple:
    return tuple(tuple(numbers.items()) for numbers in counts)


def table(rows: list[Row]) -> str:
    """Return a table in Markdown."""
    lines = ['| network | library | operator | replaced | kept |', '|---|---|---|---|---|']
    for network, libraries, operators, counts in rows:
        cells = [network, ', '.join(libraries), ', '.join(operators), _cell(counts.replaced), _cell(counts.kept)]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _cell(numbers: dict[str, int]) -> str:
    detail = ', '.join(f'{kernel}: {number}' for kernel, number in numbers.items())
    return f'{sum(numbers.values())} ({detail})' if numbers else '0'


def document() -> str:
    """Return both tables, under the versions of the libraries."""
    packages = [package for package, _ in TESTED.get(distribution(), {}).values()]
    versions = ', '.join(f'{package} {version(package)}' for package in packages)
    return '\n\n'.join(
        [
            f'Counted with {versions}.',
            '### Backbones: `mmkerv.ResNet` and its like, default `where`\n\n`mmdet (mmpretrain)`: mmdet has no such '
            "network, and its scope gets mmpretrain's.",
            table(backbones()),
            "### Upstream's necks and heads with `conv_cfg`",
            table(parts()),
        ]
    )
