# Convolution of Convolution, Table 3, row 9: FCN-HRNet18, standardised, on VOC 2012 aug. Published mIoU 74.34 % (mAcc
# 84.87, aAcc 93.91). Schedule and data as configs/fcn_hr18_voc.py.
#
# Weight standardisation of every convolution of the backbone, by mmcv. A plain checkpoint would be a wrong start: it
# starts from configs/imagenet/hrnet18_stnd.py. If that checkpoint is elsewhere:
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE
_base_ = './fcn_hr18_voc.py'

model = dict(
    pretrained=None,
    backbone=dict(
        conv_cfg=dict(type='ConvWS'),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/hrnet18_stnd/epoch_100.pth',
            prefix='backbone.',
        ),
    ),
)
