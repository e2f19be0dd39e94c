# ResNet50, standardised, on ImageNet: no row of the paper, but the start of configs/retinanet_r50_stnd.py and
# configs/fcn_r50d8_stnd_voc.py. Schedule and data as configs/imagenet/resnet50_nesterov.py.
#
#   tools/dist_train.sh configs/imagenet/resnet50_stnd.py 4
_base_ = './resnet50_nesterov.py'

model = dict(backbone=dict(conv_cfg=dict(type='ConvWS')))
