# ResNet50, orthogonalised, on ImageNet: no row of the paper, but the start of Table 2, row 3, and Table 3, row 4.
# Schedule and data as configs/resnet50_nesterov_imagenet.py.
#
#   tools/dist_train.sh configs/resnet50_orth_imagenet.py 4
_base_ = './resnet50_nesterov_imagenet.py'

custom_hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.01)]
