# Convolution of Convolution, Table 3, row 11: FCN-HRNet18-CoC, on VOC 2012 aug. Published mIoU 74.81 % (mAcc 85.65,
# aAcc 93.97). Schedule and data as configs/fcn_hr18_voc.py.
#
# Every convolution of the backbone but 1x1 is associated. The operators start as the identity, so any plain ImageNet
# checkpoint is a valid start; the paper starts from configs/imagenet/hrnet18_coc.py (Table 1, row 15):
#   --cfg-options as in configs/fcn_hr18_voc.py
_base_ = './fcn_hr18_voc.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv')))
