# Kervolution, Table 6, KNN-18 on ImageNet: published top-1 error 29.74 % (10-crop 27.43), top-5 10.49 % (9.03).
# The first convolution is polynomial of degree 3 with balance 2; section 5.2 fixes it, section 5 calls it learnable.
# The augmentation is upstream's, a random resized crop and a flip. The paper's is that of He et al.: a random short
# side of 256 to 480, a random crop, a flip and changed colours.
#
#   tools/dist_train.sh configs/imagenet/resnet18_kerv.py 4
#   python tools/test.py configs/imagenet/resnet18_kerv.py CHECKPOINT [--tta for ten crops]
_base_ = './resnet18.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.KervConv', kernel='polynomial', degree=3, balance=2.0),
        where=dict(stages=()),
    )
)
