# Convolution of Convolution, Table 1, row 1: ResNet18, on ImageNet. Published top-1 accuracy 70.01 % (+- 0.014).
# configs/imagenet/resnet18.py with Nesterov momentum (section 4.2); the schedule is otherwise the same.
#
#   tools/dist_train.sh configs/imagenet/resnet18_nesterov.py 4
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_100e_nesterov.py',
    '../_base_/runtime.py',
]
