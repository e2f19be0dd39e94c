# detection_old.py as a pure-Python config: bases by read_base, classes as types, no default_scope.
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, DetDataPreprocessor, DetTTAModel, FocalLoss, L1Loss, ResNet, RetinaHead, RetinaNet
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, PseudoSampler
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import read_base
from torch.nn import BatchNorm2d, GroupNorm

from mmkerv.engine import FrozenKernelsHook
from mmkerv.ops import CoCConv, KervConv

with read_base():
    from .runtime import *

coc = dict(type=CoCConv, super_init='kaiming')
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type=ResNet,
        depth=18,
        base_channels=8,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type=BatchNorm2d, requires_grad=True),
        norm_eval=False,
        conv_cfg=coc,
    ),
    neck=dict(
        type=FPN,
        in_channels=[8, 16, 32, 64],
        out_channels=16,
        start_level=1,
        add_extra_convs='on_input',
        num_outs=5,
        conv_cfg=dict(type=KervConv, kernel='sigmoid'),
    ),
    bbox_head=dict(
        type=RetinaHead,
        num_classes=3,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        conv_cfg=coc,
        norm_cfg=dict(type=GroupNorm, num_groups=4),
        anchor_generator=dict(
            type=AnchorGenerator,
            octave_base_scale=2,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type=PseudoSampler),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10),
)
data_root = 'data/shapes/'
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
load, resize, annotate = (
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(96, 96), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True),
)
data = dict(type=CocoDataset, data_root=data_root, metainfo=dict(classes=('circle', 'rectangle', 'triangle')))
train_dataloader = dict(
    dataset=dict(
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=[load, annotate, resize, dict(type=RandomFlip, prob=0.5), dict(type=PackDetInputs)],
        **data,
    ),
    **loader,
)
val_dataloader = dict(
    dataset=dict(
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=[load, resize, annotate, dict(type=PackDetInputs, meta_keys=meta_keys)],
        **data,
    ),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type=CocoMetric, ann_file=data_root + 'annotations/instances_val2017.json', metric='bbox', format_only=False
)
test_evaluator = val_evaluator
tta_model = dict(type=DetTTAModel, tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
visualizer = dict(type=DetLocalVisualizer, vis_backends=None, name='visualizer')
default_hooks.update(visualization=dict(type=DetVisualizationHook))
custom_hooks = [dict(type=FrozenKernelsHook)]
