# A small FCN with operators, on the built-in shapes data.
_base_ = '../../../configs/demo/fcn_coc_shapes.py'

size = (64, 64)
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict(
        _delete_=True,
        type='mmkerv.ResNetV1c',
        depth=18,
        stem_channels=8,
        base_channels=8,
        norm_cfg=norm_cfg,
        conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming'),
        where=dict(stages=(1, 2), stem=False),
    ),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=64,
        in_index=3,
        channels=8,
        num_convs=1,
        num_classes=4,
        norm_cfg=norm_cfg,
        conv_cfg=dict(type='mmkerv.KervConv', kernel='linear'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
train_dataloader = dict(
    batch_size=2,
    sampler=dict(shuffle=False),
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='Resize', scale=size),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ]
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
flips = [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=size)],
            flips,
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_cfg = dict(max_epochs=1, val_interval=1)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
param_scheduler = None
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
visualizer = dict(vis_backends=[])
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=True, interval=1))
