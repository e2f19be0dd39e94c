# ResNet-50 with separable continuous kernels of 7x7 for the 3x3 convolutions of stages 1 and 2, on ImageNet; no
# published figure. Otherwise as configs/imagenet/resnet50.py.
#
# Where: the first stages have maps large enough for large kernels, and few channels. The stem stays: a separable one
# would have three spatial filters, one for each colour. A kernel net for dense kernels of stages 3 and 4 would have
# more weights than the 3x3 kernels; separable ones would remove most of these stages' weights. Weight decay would
# shrink the frequencies of a kernel net, not its kernel, so kernel nets have none; mmkerv.KernelL2Hook decays the
# sampled kernels.
#
#   tools/dist_train.sh configs/imagenet/resnet50_ck.py 4
_base_ = './resnet50.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.CKConv', kernel_extent=7, separable=True),
        where=dict(stem=False, stages=(1, 2)),
    )
)
