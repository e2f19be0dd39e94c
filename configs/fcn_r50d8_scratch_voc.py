# Convolution of Convolution, Table 3, row 2: FCN-R50-d8 without pretraining, on VOC 2012 aug. Published mIoU 23.53 %
# (mAcc 32.23, aAcc 80.20). Otherwise as configs/fcn_r50d8_voc.py.
#
#   tools/dist_train.sh configs/fcn_r50d8_scratch_voc.py 4
_base_ = './fcn_r50d8_voc.py'

model = dict(backbone=dict(init_cfg=None))
