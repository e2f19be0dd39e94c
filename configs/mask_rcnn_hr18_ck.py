# Mask R-CNN-HRNet18 on COCO 2017 with separable continuous kernels of 7x7 in stage 1. No published figure. Schedule and
# data as configs/mask_rcnn_hr18.py.
#
# A plain checkpoint has no weights for the continuous kernels, which start at random: batch statistics are learned, and
# upstream's ImageNet weights are only a start.
_base_ = './mask_rcnn_hr18.py'

model = dict(
    backbone=dict(
        type='mmkerv.HRNet',
        conv_cfg=dict(type='mmkerv.CKConv', kernel_extent=7, separable=True),
        where=dict(stem=False, stages=(1,)),
        norm_eval=False,
    )
)
