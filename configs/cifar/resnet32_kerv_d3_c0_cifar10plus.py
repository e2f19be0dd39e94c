# Kervolution, Tables 4 and 5, degree 3, balance 0: ResNet-32 on CIFAR-10+, published error 4.78 %, 0.83 h.
# The hours are the training time to an accuracy of 94 %: the first such validation in the log.
#
#   python tools/train.py configs/cifar/resnet32_kerv_d3_c0_cifar10plus.py
_base_ = './resnet32_kerv_cifar10plus.py'

model = dict(backbone=dict(conv_cfg=dict(balance=0.0, learnable=False)))
