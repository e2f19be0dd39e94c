# 20,000 iterations of SGD with learning rate 0.01, momentum 0.9 and weight decay 5e-4, poly with power 0.9 to 1e-4, in
# batches of four images on each of four GPUs (Convolution of Convolution, section 4.2): upstream's schedule_20k.py.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005),
    clip_grad=None,
    constructor='mmkerv.OperatorRulesConstructor',
)
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=20000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000, val_interval=2000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
