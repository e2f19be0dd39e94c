# Convolution of Convolution, Table 1, row 14: HRNet18, on ImageNet. Published top-1 accuracy 75.82 % (+- 0.015).
#
#   tools/dist_train.sh configs/imagenet/hrnet18.py 4
_base_ = [
    'mmpretrain::_base_/models/hrnet/hrnet-w18.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_100e_nesterov.py',
    '../_base_/runtime.py',
]
