# A small RetinaNet with operators, on the built-in shapes data.
_base_ = '../../../configs/demo/retinanet_coc_shapes.py'

model = dict(
    backbone=dict(base_channels=8, conv_cfg=dict(_delete_=True, type='CoCConv', super_init='kaiming')),
    neck=dict(
        in_channels=[8, 16, 32, 64],
        out_channels=16,
        norm_cfg=None,
        conv_cfg=dict(_delete_=True, type='KervConv', kernel='sigmoid'),
    ),
    bbox_head=dict(
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        norm_cfg=dict(num_groups=4),
        conv_cfg=dict(_delete_=True, type='CoCConv', super_init='kaiming'),
        bbox_coder=dict(target_means=[0.0] * 4, target_stds=[1.0] * 4),
    ),
    test_cfg=dict(nms_pre=100, score_thr=0.0, max_per_img=10),
)
# The smallest images for which no 3x3 convolution of stride 2 gets a 1x1 map: in bfloat16 on CPUs, torch's weight
# gradient of one is undefined.
scale = (96, 96)
train_dataloader = dict(
    batch_size=2,
    sampler=dict(shuffle=False),
    batch_sampler=None,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=scale, keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
        filter_cfg=None,
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(batch_size=2, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
train_cfg = dict(max_epochs=1, val_interval=1)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
param_scheduler = None
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
vis_backends = None
visualizer = dict(vis_backends=None)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
