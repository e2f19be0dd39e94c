"""The text of a config, and the files of a split that belong to it."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from mmkerv.datasets.own import choices
from mmkerv.datasets.own.config_text import (
    Request,
    backbone,
    below_root,
    cls_part,
    comment,
    common_notes,
    common_root,
    epochs_schedule,
    folder,
    heading,
    lines,
    median,
    metainfo,
    optimizer,
    path,
    seg_part,
)
from mmkerv.datasets.own.detection import DetectionPart
from mmkerv.datasets.own.folders import FolderPart
from mmkerv.datasets.own.segmentation import SegmentationSurvey

MEAN_STD = 'mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]'
# Below this size, a classifier from scratch has the small stem of the networks for CIFAR.
SMALL = 64


class Written(NamedTuple):
    """A config.

    Args:
        text: of the config.
        files: text of the other files, by their path.
        notes: what was chosen and why.
        warnings: what may go wrong.
    """

    text: str
    files: dict[Path, str]
    notes: list[str]
    warnings: list[str]


def detection_config(request: Request, train: DetectionPart, val: DetectionPart) -> Written:
    """Write a RetinaNet for boxes in COCO's format."""
    size = request.size or choices.default_size('det', train.sizes)
    plan = choices.schedule('det', size, len(train.sizes), request.pretrained)
    found = choices.anchors(train.box_sizes * size)
    parts = [part for part in (train, val) if not part.is_new]
    root = common_root([*(part.file.parent for part in parts), train.folder, val.folder])
    channels = '' if request.depth >= 50 else '    neck=dict(in_channels=[64, 128, 256, 512]),\n'
    head_norm = ''
    if not request.pretrained:
        widths = '' if request.depth >= 50 else 'in_channels=[64, 128, 256, 512], '
        channels = f"    neck=dict({widths}norm_cfg=dict(type='BN')),\n"
        head_norm = "\n        norm_cfg=dict(type='GN', num_groups=32),"
    ratios = '' if found.ratios == choices.RATIOS else f', ratios={list(found.ratios)}'
    if math.isnan(found.small):
        reason = 'train has no box: the usual anchors.'
    else:
        reason = (
            f'the smallest anchors are {found.scale * choices.FIRST_LEVEL:g} pixels wide; at this scale 5 % of the '
            f'boxes are smaller than {found.small:.3g} (the root of the area), 5 % larger than {found.large:.3g}.'
        )
    text = f"""\
{heading(f'RetinaNet-R{request.depth}', request, len(train.classes), len(train.sizes), len(val.sizes))}
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']

data_root = {folder(root)}
{metainfo(train.classes)}
{comment(f'Images are scaled until they fit into this. {median(train.sizes)}')}
scale = ({size}, {size})

model = dict(
{backbone(request, frozen=True)}{channels}    bbox_head=dict(
        num_classes={len(train.classes)},{head_norm}
{comment(reason[0].upper() + reason[1:], 8)}
        anchor_generator=dict(octave_base_scale={found.scale}{ratios}),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size={plan.batch},
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file={path(train.file, root)},
        data_prefix=dict(img={folder(train.folder, root)}),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file={path(val.file, root)},
        data_prefix=dict(img={folder(val.folder, root)}),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file={below_root(val.file, root)}, metric='bbox')
test_evaluator = val_evaluator

{epochs_schedule(plan, request.pretrained)}
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval={plan.interval}, max_keep_ckpts=2, save_best='coco/bbox_mAP'),
)
"""
    notes = [*common_notes(request, size, plan, train.sizes, f'RetinaNet-R{request.depth}'), f'anchors: {reason}']
    files = {part.file: json.dumps(part.content) for part in (train, val) if part.is_new}
    return Written(text, files, notes, choices.out_of_reach(found, size))


def segmentation_config(request: Request, survey: SegmentationSurvey) -> Written:
    """Write an FCN for masks."""
    train, val, classes = survey.train, survey.val, len(survey.classes)
    size = request.size or choices.default_size('seg', train.sizes)
    plan = choices.schedule('seg', size, len(train.names), request.pretrained)
    root = common_root([train.images, train.masks, val.images, val.masks])
    interval = max(1, plan.iterations // 10)
    small = request.depth < 50
    decode, auxiliary = ('in_channels=512, channels=128, ', 'in_channels=256, channels=64, ') if small else ('', '')
    rate = f'AdamW at {plan.rate:g}' if not request.pretrained else f'SGD at {plan.rate:g}'
    text = f"""\
{heading(f'FCN-R{request.depth}-d8', request, classes, len(train.names), len(val.names))}
_base_ = ['mmkerv::_base_/models/fcn_r50-d8.py', 'mmkerv::_base_/seg_runtime.py']

data_root = {folder(root)}
{metainfo(survey.classes, survey.palette)}
{comment(f'Crops, and the shorter side of images for evaluation. {median(train.sizes)}')}
crop_size = ({size}, {size})
scale = ({4 * size}, {size})

model = dict(
    data_preprocessor=dict(size=crop_size),
{backbone(request)}    decode_head=dict({decode}num_classes={classes}),
    auxiliary_head=dict({auxiliary}num_classes={classes}),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    # At the size the labels were drawn.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
masks = dict(
    type='BaseSegDataset',
    img_suffix={survey.image_suffix!r},
    seg_map_suffix={survey.mask_suffix!r},
    data_root=data_root,
    metainfo=metainfo,
)
train_dataloader = dict(
    batch_size={plan.batch},
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
{seg_part(train, root)}
        pipeline=train_pipeline,
        **masks,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
{seg_part(val, root)}
        pipeline=test_pipeline,
        **masks,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# {plan.iterations:,} iterations, {plan.epochs} times the images, {rate}.
train_cfg = dict(type='IterBasedTrainLoop', max_iters={plan.iterations}, val_interval={interval})
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
{optimizer(plan, request.pretrained, '5e-4')}
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end={plan.warmup}),
    dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin={plan.warmup}, end={plan.iterations}),
]
auto_scale_lr = dict(enable=False, base_batch_size={plan.batch})
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval={interval}, max_keep_ckpts=2, save_best='mIoU'),
)
"""
    if not request.pretrained:
        text = text.replace('eta_min=1e-4', 'eta_min=0.0')
    notes = common_notes(request, size, plan, train.sizes, f'FCN-R{request.depth}-d8')
    files = {part.list_file: lines(part.names) for part in (train, val) if part.is_new}
    return Written(text, files, notes, [])


def folders_config(request: Request, classes: tuple[str, ...], train: FolderPart, val: FolderPart) -> Written:
    """Write a ResNet for class folders."""
    size = request.size or choices.default_size('cls', train.sizes, request.pretrained)
    plan = choices.schedule('cls', size, len(train.names), request.pretrained)
    root = common_root([train.folder, val.folder])
    topk = '(1, 5)' if len(classes) > 10 else '(1,)'
    # `mmkerv.ResNet`, which has a rule of placement, has the large stem.
    stem = '_cifar' if not request.pretrained and size <= SMALL and request.where is None else ''
    network = backbone(request, base_depth=request.depth, from_torchvision=False)
    crops = (
        f"dict(type='RandomResizedCrop', scale={size}, backend='pillow')"
        if size > SMALL
        else f"dict(type='Resize', scale=({size}, {size})),\n    dict(type='RandomCrop', crop_size={size}, "
        f'padding={max(1, size // 8)})'
    )
    evaluated = (
        f"dict(type='ResizeEdge', scale={round(size * 256 / 224)}, edge='short', backend='pillow'),\n"
        f"    dict(type='CenterCrop', crop_size={size})"
        if size > SMALL
        else f"dict(type='Resize', scale=({size}, {size}))"
    )
    text = f"""\
{heading(f'ResNet-{request.depth}', request, len(classes), len(train.names), len(val.names))}
_base_ = ['mmpretrain::_base_/models/resnet{request.depth}{stem}.py', 'mmpretrain::_base_/default_runtime.py']

data_root = {folder(root)}
{metainfo(classes)}

model = dict(
{network}    head=dict(num_classes={len(classes)}, topk={topk}),
)
data_preprocessor = dict(num_classes={len(classes)}, {MEAN_STD}, to_rgb=True)

{comment(f'Input of {size} x {size}. {median(train.sizes)}')}
train_pipeline = [
    dict(type='LoadImageFromFile'),
    {crops},
    # Remove it where left and right matter, as in letters.
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    {evaluated},
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size={plan.batch},
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        metainfo=metainfo,
{cls_part(train, root)}
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size={plan.batch},
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        metainfo=metainfo,
{cls_part(val, root)}
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk={topk})
test_evaluator = val_evaluator

{epochs_schedule(plan, request.pretrained)}
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval={plan.interval}, max_keep_ckpts=2, save_best='accuracy/top1'),
)
"""
    notes = common_notes(
        request, size, plan, train.sizes, f'ResNet-{request.depth}{" with a small stem" if stem else ""}'
    )
    files = {part.list_file: lines(f'{n} {i}' for n, i in part.names) for part in (train, val) if part.list_file}
    return Written(text, files, notes, [])
