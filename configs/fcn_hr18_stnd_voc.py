# Convolution of Convolution, Table 3, row 9: FCN-HRNet18, standardised, on VOC 2012 aug. Published mIoU 74.34 % (mAcc
# 84.87, aAcc 93.91). Schedule and data as configs/fcn_hr18_voc.py.
#
# Weight standardisation of every convolution of the backbone, by mmcv. A plain checkpoint would be a wrong start: it
# starts from the checkpoint of the first command; if that is elsewhere, add
# --cfg-options model.backbone.init_cfg.checkpoint=FILE:
#   tools/dist_train.sh configs/imagenet/hrnet18_stnd.py 4
#   tools/dist_train.sh configs/fcn_hr18_stnd_voc.py 4
_base_ = './fcn_hr18_voc.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='ConvWS'),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/hrnet18_stnd/epoch_100.pth',
            prefix='backbone.',
        ),
    ),
)
