# Kervolution, Table 3, GoogLeNet, KNN, on CIFAR-10+: published error 5.16 % (configs/cifar/googlenet_cifar10plus.py:
# 13.37 %). The first convolution is polynomial of degree 3 with a learnable balance; the paper does not say where it
# starts, here at 1.
#
#   python tools/train.py configs/cifar/googlenet_kerv_cifar10plus.py
_base_ = './googlenet_cifar10plus.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='mmkerv.KervConv', kernel='polynomial', degree=3, learnable=True),
        where=dict(stages=()),
    )
)
