# Convolution of Convolution, Table 1, row 11: HRNet18-s, orthogonalised, on ImageNet. Published top-1 accuracy 74.34 %
# (+- 0.082). The weight of the loss is from the paper of orthogonal convolution; this paper does not give its own.
#
#   tools/dist_train.sh configs/imagenet/hrnet18s_orth.py 4
_base_ = './hrnet18s.py'

custom_hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.01)]
