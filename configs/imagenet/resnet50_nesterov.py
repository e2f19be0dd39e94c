# Convolution of Convolution, Table 1, row 6: ResNet50, on ImageNet. Published top-1 accuracy 76.25 % (+- 0.04).
# configs/imagenet/resnet50.py with Nesterov momentum (section 4.2); the schedule is otherwise the same.
#
#   tools/dist_train.sh configs/imagenet/resnet50_nesterov.py 4
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_100e_nesterov.py',
    '../_base_/runtime.py',
]
