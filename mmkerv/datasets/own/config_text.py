"""Parts of the text of a config: comments, names, paths, backbone and schedule."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmkerv.datasets.own.choices import Schedule
from mmkerv.datasets.own.folders import FolderPart
from mmkerv.datasets.own.segmentation import SegmentationPart

WIDTH = 120


class Request(NamedTuple):
    """What the user asked for.

    Args:
        data: folder or file of the data, for the first line.
        command: command that writes the config.
        out: config file.
        depth: of the ResNet.
        pretrained: whether the backbone starts from ImageNet's weights.
        size: of the network's input; ``None`` for that of the data.
        conv_cfg: operator, if any.
        where: rule that places it.
        random_start: whether it starts with other outputs than the plain convolution.
    """

    data: str
    command: str
    out: str
    depth: int
    pretrained: bool
    size: int | None = None
    conv_cfg: dict[str, Any] | None = None
    where: dict[str, Any] | None = None
    random_start: bool = False


def heading(network: str, request: Request, classes: int, train: int, val: int) -> str:
    """Return the comment at the top."""
    operator = f' with {request.conv_cfg["type"].removeprefix("mmkerv.")}' if request.conv_cfg else ''
    start = 'ImageNet weights' if request.pretrained else 'scratch'
    text = (
        f'{network}{operator} from {start} for the {classes} classes of {request.data}: {train:,} images to train on, '
        f'{val:,} to evaluate. Written by'
    )
    return f'{comment(text)}\n#   {request.command}\n#\n#   mmkerv train {request.out}'


def comment(text: str, indent: int = 0) -> str:
    """Return a text as comment lines.

    Example:
        >>> comment('Crops.', 4)
        '    # Crops.'
    """
    rows, row = [], ''
    for word in text.split():
        if row and len(row) + len(word) + 3 + indent > WIDTH:
            rows.append(row)
            row = ''
        row = f'{row} {word}'.strip()
    return '\n'.join(f'{" " * indent}# {row}' for row in [*rows, row] if row)


def metainfo(classes: Sequence[str], palette: Sequence[Sequence[int]] | None = None) -> str:
    """Return the assignment of class names and palette.

    Example:
        >>> metainfo(['cat'])
        "metainfo = dict(classes=('cat',))"
    """
    names = wrapped([repr(str(name)) for name in classes], '()')
    if palette is None and '\n' not in names:
        return f'metainfo = dict(classes={names})'
    colours = '' if palette is None else f'    palette={wrapped([str(list(c)) for c in palette], "[]")},\n'
    return f'metainfo = dict(\n    classes={names},\n{colours})'


def wrapped(items: Sequence[str], brackets: str) -> str:
    """Return a tuple or list in one line, or in several if it is long."""
    comma = ',' if len(items) == 1 and brackets == '()' else ''
    line = f'{brackets[0]}{", ".join(items)}{comma}{brackets[1]}'
    if len(line) <= WIDTH - 24:
        return line
    rows = ['']
    for item in items:
        if len(rows[-1]) + len(item) + 10 > WIDTH:
            rows.append('')
        rows[-1] += f'{" " if rows[-1] else ""}{item},'
    inner = '\n'.join(f'        {row}' for row in rows)
    return f'{brackets[0]}\n{inner}\n    {brackets[1]}'


def backbone(request: Request, frozen: bool = False, base_depth: int = 50, from_torchvision: bool = True) -> str:
    """Return the line of the backbone with what differs from its base config, if anything does.

    Args:
        request: what the user asked for.
        frozen: whether the base config freezes layers.
        base_depth: depth of the base config.
        from_torchvision: whether the base config starts from torchvision's weights.
    """
    arguments = []
    if request.where is not None:
        arguments.append("type='mmkerv.ResNet'")
    if request.depth != base_depth:
        arguments.append(f'depth={request.depth}')
    if not request.pretrained:
        # Frozen layers and statistics are those of the weights.
        arguments += ['frozen_stages=-1', 'norm_eval=False'] if frozen else []
        arguments += ['init_cfg=None'] if from_torchvision else []
    elif request.depth != base_depth or not from_torchvision:
        arguments.append(f"init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet{request.depth}')")
    if request.pretrained and frozen and request.random_start:
        arguments.append('frozen_stages=-1')
    if request.conv_cfg:
        arguments.append(f'conv_cfg={as_dict(request.conv_cfg)}')
    if request.where is not None:
        arguments.append(f'where={as_dict(request.where)}')
    line = ', '.join(arguments)
    if len(line) > WIDTH - 24:
        line = '\n' + ''.join(f'        {argument},\n' for argument in arguments) + '    '
    return f'    backbone=dict({line}),\n' if arguments else ''


def as_dict(value: dict[str, Any]) -> str:
    """Return a dict as a call of ``dict``.

    Example:
        >>> as_dict(dict(type='mmkerv.CoCConv', association=2))
        "dict(type='mmkerv.CoCConv', association=2)"
    """
    return f'dict({", ".join(f"{key}={item!r}" for key, item in value.items())})'


def epochs_schedule(plan: Schedule, pretrained: bool) -> str:
    """Return the schedule of a training in epochs, with a cosine."""
    rate = f'{"SGD" if pretrained else "AdamW"} at {plan.rate:g}'
    return f"""\
# {plan.epochs} epochs, {plan.iterations:,} iterations; {rate} with a cosine.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs={plan.epochs}, val_interval={plan.interval})
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
{optimizer(plan, pretrained, '1e-4')}
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end={plan.warmup}),
    dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, convert_to_iter_based=True, end={plan.epochs}),
]
auto_scale_lr = dict(enable=False, base_batch_size={plan.batch})"""


def optimizer(plan: Schedule, pretrained: bool, decay: str) -> str:
    """Return the optimizer: SGD to fine-tune, AdamW from scratch."""
    chosen = (
        f"dict(type='SGD', lr={plan.rate:g}, momentum=0.9, weight_decay={decay})"
        if pretrained
        else f"dict(type='AdamW', lr={plan.rate:g}, weight_decay=0.05)"
    )
    clip = 10 if pretrained else 1
    inner = f"    type='OptimWrapper',\n    optimizer={chosen},\n    clip_grad=dict(max_norm={clip}),\n"
    return f'optim_wrapper = dict(\n{inner})'


def seg_part(part: SegmentationPart, root: Path) -> str:
    """Return the lines of a data set of masks."""
    prefix = f'data_prefix=dict(img_path={folder(part.images, root)}, seg_map_path={folder(part.masks, root)}),'
    listed = f'        ann_file={path(part.list_file, root)},\n' if part.list_file else ''
    return f'{listed}        {prefix}'


def cls_part(part: FolderPart, root: Path) -> str:
    """Return the lines of a data set of class folders."""
    listed = f'        ann_file={path(part.list_file, root)},\n' if part.list_file else ''
    return f'{listed}        data_prefix={folder(part.folder, root)},'


def common_root(paths: Iterable[Path]) -> Path:
    """Return the folder that holds all of some files.

    Example:
        >>> common_root([Path('/data/train'), Path('/data/val')]).name
        'data'
    """
    return Path(os.path.commonpath([os.path.abspath(path) for path in paths]))


def folder(path: Path, root: Path | None = None) -> str:
    """Return a folder below ``root`` as it is written, with a slash at the end.

    Example:
        >>> folder(Path('/data/train'), Path('/data'))
        "'train/'"
    """
    inner = _below(path, root)
    return repr('' if inner == '.' else f'{inner.rstrip("/")}/')


def path(file: Path, root: Path) -> str:
    """Return a file below ``root`` as it is written.

    Example:
        >>> path(Path('/data/train.json'), Path('/data'))
        "'train.json'"
    """
    return repr(_below(file, root))


def below_root(file: Path, root: Path) -> str:
    """Return a file as an expression of ``data_root``.

    Example:
        >>> below_root(Path('/data/train.json'), Path('/data'))
        "data_root + 'train.json'"
    """
    inner = _below(file, root)
    return repr(inner) if Path(inner).is_absolute() else f'data_root + {inner!r}'


def lines(items: Iterable[str]) -> str:
    """Return a text with a line for each item."""
    return ''.join(f'{item}\n' for item in items)


def median(sizes: Any) -> str:
    """Return the median of widths and heights, in words."""
    width, height = (int(value) for value in np.median(sizes, 0))
    return f'The images of train have a median of {width} x {height} pixels.'


def common_notes(request: Request, size: int, plan: Schedule, sizes: Any, network: str) -> list[str]:
    """Return what was chosen for any task, and why."""
    chosen = 'as asked for' if request.size else 'by the median of the images'
    start = 'ImageNet weights of torchvision' if request.pretrained else 'scratch, nothing is frozen'
    return [
        f'network: {network} from {start}',
        f'size: {size}, {chosen}. {median(sizes)}',
        f'schedule: {plan.epochs} epochs of {len(sizes):,} images in batches of {plan.batch}: {plan.iterations:,} '
        f'iterations, learning rate {plan.rate:g}',
    ]


def _below(path: Path, root: Path | None) -> str:
    path = Path(os.path.abspath(path))
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.as_posix()
