# Convolution of Convolution, Table 1, row 17: ShuffleNetV2-1.0x, on ImageNet. Published top-1 accuracy 69.59 % (+-
# 0.062).
#
#   tools/dist_train.sh configs/imagenet/shufflenet_v2.py 4
_base_ = [
    'mmpretrain::_base_/models/shufflenet_v2_1x.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300e_light.py',
    '../_base_/runtime.py',
]
