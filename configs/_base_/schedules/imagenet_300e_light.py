# 300 epochs of SGD with learning rate 0.5, momentum 0.9 and weight decay 4e-5, poly with power 0.9 to 1e-4, in batches
# of 64 on each of four GPUs (Convolution of Convolution, section 4.2, light-weight networks).
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=4e-5), constructor='mmkerv.OperatorRulesConstructor'
)
param_scheduler = dict(
    type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=300, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=256)
