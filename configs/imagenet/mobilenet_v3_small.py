# Convolution of Convolution, Table 1, row 19: MobileNetV3-small, on ImageNet. Published top-1 accuracy 66.34 % (+-
# 0.058).
#
#   tools/dist_train.sh configs/imagenet/mobilenet_v3_small.py 4
_base_ = [
    'mmpretrain::_base_/models/mobilenet_v3/mobilenet_v3_small_imagenet.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300e_light.py',
    '../_base_/runtime.py',
]
