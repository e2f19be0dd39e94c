# Kervolution, the baseline of Tables 4 and 5, which publish none: ResNet-32 on CIFAR-10+.
# 200 epochs in batches of 128, x0.1 at 75, 125 and 150.
#
#   python tools/train.py configs/cifar/resnet32_cifar10plus.py
_base_ = [
    '../_base_/models/resnet_cifar.py',
    '../_base_/datasets/cifar10plus.py',
    '../_base_/schedules/cifar_200e.py',
    '../_base_/runtime.py',
]

model = dict(backbone=dict(depth=32))
