# 200 epochs of SGD with momentum 0.9 and weight decay 5e-4, x0.1 at epochs 75, 125 and 150 (Kervolution, section 5.1).
#
# The paper gives no initial learning rate: it is 0.1, as in He et al., section 4.2.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    constructor='mmkerv.OperatorRulesConstructor',
)
param_scheduler = dict(type='MultiStepLR', milestones=[75, 125, 150], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
