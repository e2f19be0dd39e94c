# Kervolution, Table 3, GoogLeNet, CNN, on CIFAR-100+: published error 26.65 %.
# 200 epochs in batches of 128, x0.1 at 75, 125 and 150. The paper does not describe its GoogLeNet for 32 x 32 images:
# see mmkerv.GoogLeNetCifar for ours.
#
#   python tools/train.py configs/cifar/googlenet_cifar100plus.py
_base_ = [
    '../_base_/models/googlenet_cifar.py',
    '../_base_/datasets/cifar100plus.py',
    '../_base_/schedules/cifar_200e.py',
    '../_base_/runtime.py',
]

model = dict(head=dict(num_classes=100))
