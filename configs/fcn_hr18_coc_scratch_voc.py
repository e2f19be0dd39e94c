# Convolution of Convolution, Table 3, row 12: FCN-HRNet18-CoC without pretraining, on VOC 2012 aug. Published mIoU
# 41.39 % (mAcc 58.81, aAcc 83.28). Otherwise as configs/fcn_hr18_coc_voc.py, except that super kernels start from
# kaiming, as in the paper.
#
#   tools/dist_train.sh configs/fcn_hr18_coc_scratch_voc.py 4
_base_ = './fcn_hr18_coc_voc.py'

model = dict(backbone=dict(init_cfg=None, conv_cfg=dict(super_init='kaiming')))
