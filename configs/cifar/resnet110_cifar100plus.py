# Kervolution, Table 3, ResNet-110, CNN, on CIFAR-100+: published error 27.22 %.
# The paper does not give the depth; 6.43 % is the best of He et al. for ResNet-110. 200 epochs in batches of 128, x0.1
# at 75, 125 and 150.
#
#   python tools/train.py configs/cifar/resnet110_cifar100plus.py
_base_ = [
    '../_base_/models/resnet_cifar.py',
    '../_base_/datasets/cifar100plus.py',
    '../_base_/schedules/resnet110_200e.py',
    '../_base_/runtime.py',
]

model = dict(head=dict(num_classes=100))
