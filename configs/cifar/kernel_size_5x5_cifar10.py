# Chazareix, "How to optimize Convolutional Layer with Convolution Kernel" (2022): blocks of one 5x5 convolution, the
# blue curve of the first figure, below that of two stacked 3x3 ones.
# The article shows curves of the validation accuracy on CIFAR-10 and prints no figure. It gives neither the channels
# nor the schedule; those here are ours.
#
#   python tools/train.py configs/cifar/kernel_size_5x5_cifar10.py
_base_ = [
    '../_base_/models/kernel_size_net.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/kernel_size_20e.py',
    '../_base_/runtime.py',
]

model = dict(backbone=dict(kernel_size=5, convs=1))
