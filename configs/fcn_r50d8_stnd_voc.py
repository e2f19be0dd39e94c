# Convolution of Convolution, Table 3, row 3: FCN-R50-d8, standardised, on VOC 2012 aug. Published mIoU 69.16 % (mAcc
# 78.42, aAcc 92.65). Schedule and data as configs/fcn_r50d8_voc.py.
#
# Weight standardisation of every convolution of the backbone, by mmcv. A plain checkpoint would be a wrong start: it
# starts from the checkpoint of the first command; if that is elsewhere, add
# --cfg-options model.backbone.init_cfg.checkpoint=FILE:
#   tools/dist_train.sh configs/imagenet/resnet50_stnd.py 4
#   tools/dist_train.sh configs/fcn_r50d8_stnd_voc.py 4
_base_ = './fcn_r50d8_voc.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='ConvWS'),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/resnet50_stnd/epoch_100.pth',
            prefix='backbone.',
        ),
    ),
)
