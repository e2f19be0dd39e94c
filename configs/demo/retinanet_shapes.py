# RetinaNet-R18 on the built-in shapes data, trained from scratch: the plain twin of retinanet_coc_shapes.py.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_shapes.py
#
# 800 iterations and one evaluation on 100 held-out scenes, about 4 minutes on 2 CPU cores. Another data folder DIR/ has
# to be given to everything that reads it: --cfg-options train_dataloader.dataset.data_root=DIR/
# {val,test}_dataloader.dataset.data_root=DIR/ {val,test}_evaluator.ann_file=DIR/annotations/instances_val2017.json
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'

data_root = 'data/shapes/'
metainfo = dict(classes=('circle', 'rectangle', 'triangle'))
scale = (160, 160)

# Upstream freezes the stem, stage 1 and the statistics of BN to ImageNet's; nothing is frozen where nothing is loaded.
model = dict(
    backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(out_channels=128, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        num_classes=3,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=16),
        # Half of upstream's: the smallest anchors are 16 pixels wide, and the shapes 17 to 80.
        anchor_generator=dict(octave_base_scale=2),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    # Loading takes a hundredth of an iteration: a worker would only take a core from training.
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=16, val_interval=16)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0, begin=1, end=16, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=16))
log_processor = dict(window_size=20)
