# Convolution of Convolution, Table 1, row 8: ResNet50, CoC, standardised, on ImageNet. Published top-1 accuracy 77.07 %
# (+- 0.037). The associated kernels are standardised; 1x1 convolutions stay plain, as in the authors' code.
# With them standardised as well: configs/imagenet/resnet50_coc_stnd_1x1.py.
#
#   tools/dist_train.sh configs/imagenet/resnet50_coc_stnd.py 4
_base_ = './resnet50_coc.py'

model = dict(backbone=dict(conv_cfg=dict(standardize=True)))
