# Convolution of Convolution, Table 3, row 6: FCN-R50-d8-CoC without pretraining, on VOC 2012 aug. Published mIoU 34.25
# % (mAcc 46.35, aAcc 83.17). Otherwise as configs/fcn_r50d8_coc_voc.py, except that super kernels start from kaiming,
# as in the paper.
#
#   tools/dist_train.sh configs/fcn_r50d8_coc_scratch_voc.py 4
_base_ = './fcn_r50d8_coc_voc.py'

model = dict(backbone=dict(init_cfg=None, conv_cfg=dict(super_init='kaiming')))
