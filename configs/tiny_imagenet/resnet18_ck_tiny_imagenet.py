# ResNet-18 with separable continuous kernels of 7x7 in the stem and in stage 1, on Tiny ImageNet; no published figure.
# Stride and size of every feature map are those of configs/tiny_imagenet/resnet18_tiny_imagenet.py, as is all else.
#
# Weight decay would shrink the frequencies of a kernel net, not its kernel, so kernel nets have none.
_base_ = './resnet18_tiny_imagenet.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.CKConv', kernel_extent=7, separable=True),
        where=dict(stages=(1,)),
    )
)
