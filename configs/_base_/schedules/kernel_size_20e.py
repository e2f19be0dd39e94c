# 20 epochs of Adam with learning rate 1e-3; the source, Chazareix (2022), names no schedule.
optim_wrapper = dict(
    optimizer=dict(type='Adam', lr=1e-3),
    constructor='mmkerv.OperatorRulesConstructor',
)
param_scheduler = dict(type='ConstantLR', factor=1.0)
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
