# A small ResNet with operators, on the built-in shapes data.
_base_ = '../../../configs/demo/resnet18_coc_shapes.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.ResNet',
        depth=18,
        stem_channels=8,
        base_channels=8,
        conv_cfg=dict(type='mmkerv.CKConv'),
        where=dict(stages=(1, 2), stem=False),
    ),
    head=dict(in_channels=64),
)
train_dataloader = dict(
    batch_size=2,
    sampler=dict(shuffle=False),
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(64, 64)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ]
    ),
)
val_dataloader = dict(batch_size=2)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
param_scheduler = None
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
visualizer = dict(vis_backends=[])
default_hooks = dict(
    _delete_=True,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
)
