# ResNet50, orthogonalised, on ImageNet: no row of the paper, but the start of Table 2, row 3, and Table 3, row 4.
# Schedule and data as configs/imagenet/resnet50_nesterov.py.
#
#   tools/dist_train.sh configs/imagenet/resnet50_orth.py 4
_base_ = './resnet50_nesterov.py'

custom_hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.01)]
