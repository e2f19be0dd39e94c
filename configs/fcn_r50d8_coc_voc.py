# Convolution of Convolution, Table 3, row 5: FCN-R50-d8-CoC, on VOC 2012 aug. Published mIoU 69.52 % (mAcc 79.14, aAcc
# 92.83). Schedule and data as configs/fcn_r50d8_voc.py.
#
# Every convolution of the backbone but 1x1 is associated. The operators start as the identity, so any plain ImageNet
# checkpoint is a valid start; the paper starts from configs/imagenet/resnet50_coc.py (Table 1, row 7):
#   --cfg-options as in configs/fcn_r50d8_voc.py
_base_ = './fcn_r50d8_voc.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv')))
