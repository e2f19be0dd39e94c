# Convolution of Convolution, Table 1, row 3: ResNet18, orthogonalised, on ImageNet. Published top-1 accuracy 70.38 %
# (+- 0.02). The weight of the loss is from the paper of orthogonal convolution; this paper does not give its own.
#
#   tools/dist_train.sh configs/imagenet/resnet18_orth.py 4
_base_ = './resnet18_nesterov.py'

custom_hooks = [dict(type='mmkerv.OrthogonalityHook', weight=0.01)]
