# Kervolution, Table 6, ResNet-34 on ImageNet: published top-1 error 26.70 % (10-crop 25.03), top-5 8.58 % (7.76).
# Published baselines are collected from other papers. 100 epochs in batches of 4 x 64, x0.1 every 30.
# The augmentation is upstream's, a random resized crop and a flip. The paper's is that of He et al.: a random short
# side of 256 to 480, a random crop, a flip and changed colours.
#
#   tools/dist_train.sh configs/imagenet/resnet34.py 4
#   python tools/test.py configs/imagenet/resnet34.py CHECKPOINT [--tta for ten crops]
_base_ = [
    'mmpretrain::_base_/models/resnet34.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_100e.py',
    '../_base_/runtime.py',
]
