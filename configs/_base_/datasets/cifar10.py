# CIFAR-10 without data augmentation, in batches of 128 (Kervolution, section 5.1). Upstream's class fills an empty
# data/cifar10 by download. Another folder: --cfg-options data_root=DIR.
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

data_root = 'data/cifar10'
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=[dict(type='PackInputs')]))
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
