# Kervolution, Table 3, ResNet-110, KNN, on CIFAR-10+: published error 4.69 % (configs/cifar/resnet110_cifar10plus.py:
# 6.43 %). The first convolution is polynomial of degree 3 with a learnable balance; the paper does not say where it
# starts, here at 1.
#
#   python tools/train.py configs/cifar/resnet110_kerv_cifar10plus.py
_base_ = './resnet110_cifar10plus.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='mmkerv.KervConv', kernel='polynomial', degree=3, learnable=True),
        where=dict(stages=()),
    )
)
