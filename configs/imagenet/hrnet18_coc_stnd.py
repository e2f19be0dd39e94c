# Convolution of Convolution, Table 1, row 16: HRNet18, CoC, standardised, on ImageNet. Published top-1 accuracy 76.98 %
# (+- 0.01). The associated kernels are standardised; 1x1 convolutions stay plain, since the paper does not mention
# them.
#
#   tools/dist_train.sh configs/imagenet/hrnet18_coc_stnd.py 4
_base_ = './hrnet18_coc.py'

model = dict(backbone=dict(conv_cfg=dict(standardize=True)))
