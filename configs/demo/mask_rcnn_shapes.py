# Mask R-CNN-R18, narrow, on the built-in shapes data, trained from scratch: the plain counterpart of
# mask_rcnn_coc_shapes.py. Reaches mask mAP_50 >= 0.4.
#
#   python -m mmkerv.datasets.shapes data/shapes
#   python tools/train.py configs/demo/mask_rcnn_shapes.py
#
# 400 iterations and one evaluation on 100 held-out scenes. Another data folder DIR: --cfg-options data_root=DIR
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/shapes_coco.py',
    '../_base_/schedules/shapes_short.py',
    'mmdet::_base_/default_runtime.py',
]

# Nothing is frozen, since nothing is loaded. Anchors of half of upstream's size, for shapes of 17 to 80 pixels.
model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=dict(type='BN')),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=3),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=3, norm_cfg=dict(type='BN')),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(max_per_img=200)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=_base_.scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=8))
log_processor = dict(window_size=20)
