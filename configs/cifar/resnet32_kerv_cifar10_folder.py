# configs/cifar/resnet32_cifar10_folder.py with a first convolution that is polynomial of degree 3 with a learnable
# balance.
#
#   python tools/train.py configs/cifar/resnet32_kerv_cifar10_folder.py --cfg-options data_root=DIR
_base_ = './resnet32_cifar10_folder.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='mmkerv.KervConv', kernel='polynomial', degree=3, learnable=True),
        where=dict(stages=()),
    )
)
