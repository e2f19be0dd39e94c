# Kervolution, Table 6, ResNet-101 on ImageNet: published top-1 error 22.63 % (10-crop 21.75), top-5 6.44 % (6.05).
# Published baselines are collected from other papers. 100 epochs in batches of 4 x 64, x0.1 every 30.
# The augmentation is upstream's, a random resized crop and a flip. The paper's is that of He et al.: a random short
# side of 256 to 480, a random crop, a flip and changed colours.
#
#   tools/dist_train.sh configs/imagenet/resnet101.py 4
#   python tools/test.py configs/imagenet/resnet101.py CHECKPOINT [--tta for ten crops]
_base_ = [
    'mmpretrain::_base_/models/resnet101.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_100e.py',
    '../_base_/runtime.py',
]
