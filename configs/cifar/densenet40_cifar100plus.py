# Kervolution, Table 3, DenseNet-40-12, CNN, on CIFAR-100+: published error 24.42 %.
# 300 epochs in batches of 64, /10 at 150 and 225.
#
#   python tools/train.py configs/cifar/densenet40_cifar100plus.py
_base_ = [
    '../_base_/models/densenet_cifar.py',
    '../_base_/datasets/cifar100plus.py',
    '../_base_/schedules/cifar_300e.py',
    '../_base_/runtime.py',
]

train_dataloader = dict(batch_size=64)
model = dict(head=dict(num_classes=100))
