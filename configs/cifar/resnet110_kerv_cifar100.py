# Kervolution, Table 2, KNN: ResNet-110 on CIFAR-100 without data augmentation, published error 37.12 %
# (configs/cifar/resnet110_cifar100.py: 44.74 %). The first convolution is polynomial of degree 3 with a learnable
# balance; the paper does not say where it starts, here at 1.
#
#   python tools/train.py configs/cifar/resnet110_kerv_cifar100.py
_base_ = './resnet110_cifar100.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='mmkerv.KervConv', kernel='polynomial', degree=3, learnable=True),
        where=dict(stages=()),
    )
)
