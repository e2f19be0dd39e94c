# 16 epochs of AdamW with a cosine from 1e-3, in batches of 8: 800 iterations on 400 scenes.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=16, val_interval=16)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0, begin=1, end=16, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1, norm_type=2),
    constructor='mmkerv.OperatorRulesConstructor',
)
auto_scale_lr = dict(enable=False, base_batch_size=8)
