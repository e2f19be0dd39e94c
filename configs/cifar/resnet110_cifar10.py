# Kervolution, Table 2, CNN: ResNet-110 on CIFAR-10 without data augmentation, published error 13.63 %.
# 200 epochs in batches of 128, x0.1 at 75, 125 and 150.
#
#   python tools/train.py configs/cifar/resnet110_cifar10.py
_base_ = [
    '../_base_/models/resnet_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/resnet110_200e.py',
    '../_base_/runtime.py',
]
