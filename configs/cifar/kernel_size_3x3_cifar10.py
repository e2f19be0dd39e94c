# Chazareix, "How to optimize Convolutional Layer with Convolution Kernel" (2022): blocks of two 3x3 convolutions,
# each with ReLU: the orange curve of both figures.
# The article shows curves of the validation accuracy on CIFAR-10 and prints no figure. It gives neither the channels
# nor the schedule; those here are ours.
#
#   python tools/train.py configs/cifar/kernel_size_3x3_cifar10.py
_base_ = [
    '../_base_/models/kernel_size_net.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/kernel_size_20e.py',
    '../_base_/runtime.py',
]
