# Convolution of Convolution, Table 1, row 4: ResNet18, standardised, on ImageNet. Published top-1 accuracy 70.65 % (+-
# 0.009). Weight standardisation of every convolution by mmcv.
#
#   tools/dist_train.sh configs/imagenet/resnet18_stnd.py 4
_base_ = './resnet18_nesterov.py'

model = dict(backbone=dict(conv_cfg=dict(type='ConvWS')))
