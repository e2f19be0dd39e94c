# HRNet18, orthogonalised, on ImageNet: no row of the paper, but the start of Table 2, row 7, and Table 3, row 10.
# Schedule and data as configs/imagenet/hrnet18.py.
#
#   tools/dist_train.sh configs/imagenet/hrnet18_orth.py 4
_base_ = './hrnet18.py'

custom_hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.01)]
