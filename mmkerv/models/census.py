"""Which convolutions become operators: counted in the advertised networks, by building each of them."""

import math
from collections import Counter
from typing import Any, NamedTuple

from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmkerv.distributions import TESTED, distribution, version
from mmkerv.models.upstream_backbones import HOSTS, find_host
from mmkerv.ops.core.base import Conv2d

OPERATORS = ('CoCConv', 'KervConv', 'CKConv')


def hrnet(width: int) -> dict[str, Any]:
    """Return ``extra`` of an HRNet in mmdetection's and mmsegmentation's configs.

    Example:
        >>> hrnet(18)['stage4']['num_channels']
        (18, 36, 72, 144)
    """

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
# Built as mmkerv's variant on every host, with the default `where`.
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


class Census(NamedTuple):
    """Numbers of a network's convolutions by kernel, such as ``'3x3 depthwise'``, largest first.

    Args:
        replaced: those that are operators.
        kept: the others.

    Example:
        >>> Census({'7x7': 1}, {}).replaced
        {'7x7': 1}
    """

    replaced: dict[str, int]
    kept: dict[str, int]


class Row(NamedTuple):
    """One line of a table: what is the same for all of its libraries and operators.

    Args:
        network: name.
        libraries: the host libraries; ``'mmdet (mmpretrain)'`` is mmdetection's scope with mmpretrain's network.
        operators: types of the operators.
        census: the counts.

    Example:
        >>> Row('ResNet-50', ('mmdet',), ('CoCConv',), Census({'7x7': 1, '3x3': 16}, {'1x1': 36})).network
        'ResNet-50'
    """

    network: str
    libraries: tuple[str, ...]
    operators: tuple[str, ...]
    census: Census


def count(model: nn.Module) -> Census:
    """Count the two-dimensional convolutions of a network; a shared one counts once.

    Example:
        >>> from mmkerv.ops import CoCConv2d
        >>> count(nn.Sequential(CoCConv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)))
        Census(replaced={'3x3': 1}, kept={'3x3 depthwise': 1, '1x1': 1})
    """
    convs = [m for m in model.modules() if isinstance(m, (nn.Conv2d, Conv2d))]
    return Census(*(_by_kernel([c for c in convs if isinstance(c, Conv2d) is is_one]) for is_one in (True, False)))


def _by_kernel(convs: list[nn.Module]) -> dict[str, int]:
    found = Counter()
    for conv in convs:
        text = 'x'.join(map(str, conv.kernel_size))
        if conv.groups > 1:
            text += ' depthwise' if conv.groups == conv.in_channels else ' grouped'
        found[-math.prod(conv.kernel_size), text] += 1
    return {text: number for (_, text), number in sorted(found.items())}


def build(host: str, cfg: dict[str, Any], operator: str) -> nn.Module:
    """Build a network of a library with an operator.

    Args:
        host: default scope.
        cfg: its config.
        operator: type for ``conv_cfg``.

    Example:
        >>> build('mmdet', dict(type='mmkerv.ResNet', depth=18), 'CoCConv').conv1  # doctest: +SKIP
        CoCConv2d(3, 64, kernel_size=(7, 7), ...)
    """
    with DefaultScope.overwrite_default_scope(host):
        return MODELS.build({**cfg, 'conv_cfg': dict(type=operator)})


def backbones() -> list[Row]:
    """Count in mmkerv's variant of every backbone, in the scope of every host library.

    Example:
        >>> backbones()[0].network  # doctest: +SKIP
        'ResNet-18'
    """
    cases = []
    for network, cfg in BACKBONES.items():
        for host in HOSTS:
            found = find_host(cfg['type'], host)
            library = host if found == host else f'{host} ({found})'
            cases.append((network, library, host, {**cfg, 'type': f'mmkerv.{cfg["type"]}'}))
    return _rows(cases)


def parts() -> list[Row]:
    """Count in upstream's necks and heads with a ``conv_cfg``.

    Example:
        >>> parts()[0].network  # doctest: +SKIP
        'FPN of RetinaNet'
    """
    return _rows([(network, host, host, cfg) for network, (host, cfg) in PARTS.items()])


def _rows(cases: list[tuple[str, str, str, dict[str, Any]]]) -> list[Row]:
    """Build every case with every operator; what counts the same in several libraries or operators shares a row."""
    libraries: dict[tuple, list[str]] = {}
    for network, library, host, cfg in cases:
        operators: dict[tuple, list[str]] = {}
        for operator in OPERATORS:
            operators.setdefault(_frozen(count(build(host, cfg, operator))), []).append(operator)
        for census, same in operators.items():
            libraries.setdefault((network, tuple(same), census), []).append(library)
    return [
        Row(network, tuple(same), operators, Census(*map(dict, census)))
        for (network, operators, census), same in libraries.items()
    ]


def _frozen(census: Census) -> tuple:
    return tuple(tuple(counts.items()) for counts in census)


def table(rows: list[Row]) -> str:
    """Return a table in Markdown.

    Example:
        >>> row = Row('ResNet-50', ('mmdet', 'mmseg'), ('CoCConv',), Census({'7x7': 1, '3x3': 16}, {'1x1': 36}))
        >>> print(table([row]))
        | network | library | operator | replaced | kept |
        |---|---|---|---|---|
        | ResNet-50 | mmdet, mmseg | CoCConv | 17 (7x7: 1, 3x3: 16) | 36 (1x1: 36) |
    """
    lines = ['| network | library | operator | replaced | kept |', '|---|---|---|---|---|']
    for network, libraries, operators, census in rows:
        cells = [network, ', '.join(libraries), ', '.join(operators), _cell(census.replaced), _cell(census.kept)]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _cell(counts: dict[str, int]) -> str:
    detail = ', '.join(f'{kernel}: {number}' for kernel, number in counts.items())
    return f'{sum(counts.values())} ({detail})' if counts else '0'


def document() -> str:
    """Return both tables, under the versions they were counted with.

    Example:
        >>> print(document())  # doctest: +SKIP
    """
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
