# Convolution of Convolution, Table 1, row 9: HRNet18-s, on ImageNet. Published top-1 accuracy 74.03 % (+- 0.01).
# HRNet-W18-small, version 2: half the blocks of HRNet18 in each branch, and fewer modules, as mmsegmentation's hr18s.
#
#   tools/dist_train.sh configs/imagenet/hrnet18s.py 4
_base_ = './hrnet18.py'

model = dict(
    backbone=dict(
        arch=None,
        extra=dict(
            stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(2,), num_channels=(64,)),
            stage2=dict(num_modules=1, num_branches=2, block='BASIC', num_blocks=(2, 2), num_channels=(18, 36)),
            stage3=dict(num_modules=3, num_branches=3, block='BASIC', num_blocks=(2, 2, 2), num_channels=(18, 36, 72)),
            stage4=dict(
                num_modules=2, num_branches=4, block='BASIC', num_blocks=(2, 2, 2, 2), num_channels=(18, 36, 72, 144)
            ),
        ),
    )
)
