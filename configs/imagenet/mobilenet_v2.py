# MobileNetV2 on ImageNet: the plain network that configs/imagenet/mobilenet_v2_condconv.py is compared with. Upstream's
# network, with the schedule of the light-weight networks of Convolution of Convolution.
#
#   tools/dist_train.sh configs/imagenet/mobilenet_v2.py 4
_base_ = [
    'mmpretrain::_base_/models/mobilenet_v2_1x.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300e_light.py',
    '../_base_/runtime.py',
]
