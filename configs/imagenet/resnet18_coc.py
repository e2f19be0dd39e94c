# Convolution of Convolution, Table 1, row 2: ResNet18, CoC, on ImageNet. Published top-1 accuracy 70.40 % (+- 0.018).
# The paper's optimum: association 2, kernel_plus 2, one super layer, skip, dilate, 1x1 convolutions left plain; super
# kernels start from kaiming, as in the paper. Schedule and data as configs/imagenet/resnet18_nesterov.py.
# Super kernels have weight decay like all other weights (operator_rules=False): the paper exempts nothing.
#
#   tools/dist_train.sh configs/imagenet/resnet18_coc.py 4
_base_ = './resnet18_nesterov.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming')))
optim_wrapper = dict(paramwise_cfg=dict(operator_rules=False))
