# Kervolution, Table 3, DenseNet-40-12, KNN, on CIFAR-100+: published error 24.92 %
# (configs/cifar/densenet40_cifar100plus.py: 24.42 %). The first convolution is polynomial of degree 3 with a learnable
# balance; the paper does not say where it starts, here at 1.
#
#   python tools/train.py configs/cifar/densenet40_kerv_cifar100plus.py
_base_ = './densenet40_cifar100plus.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='mmkerv.KervConv', kernel='polynomial', degree=3, learnable=True),
        where=dict(stages=()),
    )
)
