# Chazareix, "How to optimize Convolutional Layer with Convolution Kernel" (2022): blocks of two separable 3x3
# convolutions, the red curve of the second figure, a little below that of plain ones.
# The article shows curves of the validation accuracy on CIFAR-10 and prints no figure. It gives neither the channels
# nor the schedule; those here are ours.
#
#   python tools/train.py configs/cifar/kernel_size_separable_cifar10.py
_base_ = [
    '../_base_/models/kernel_size_net.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/kernel_size_20e.py',
    '../_base_/runtime.py',
]

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.DepthwiseSeparableConv')))
