# Convolution of Convolution, Table 3, row 8: FCN-HRNet18 without pretraining, on VOC 2012 aug. Published mIoU 35.23 %
# (mAcc 49.74, aAcc 82.28). Otherwise as configs/fcn_hr18_voc.py.
#
#   tools/dist_train.sh configs/fcn_hr18_scratch_voc.py 4
_base_ = './fcn_hr18_voc.py'

model = dict(backbone=dict(init_cfg=None))
