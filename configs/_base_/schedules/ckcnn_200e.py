# 200 epochs of Adam with learning rate 1e-3, divided by 5 when the validation accuracy has not risen for 20 epochs
# (the authors' published commands). Batches of 64.
#
# The authors chose the epoch, and let the learning rate fall, by the accuracy on the test set. Here both look at a
# validation split of the training data, and the test set is for `tools/test.py`.
optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-3))
param_scheduler = dict(
    type='ReduceOnPlateauLR', monitor='accuracy/top1', rule='greater', factor=0.2, patience=20, by_epoch=True
)
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
