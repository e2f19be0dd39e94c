# Convolution of Convolution, Table 2, row 6: Mask R-CNN-HRNet18, standardised, on COCO 2017. Published mask mAP 34.9
# (AP50 56.0, AP75 37.4, APs 19.9, APm 37.9, APl 47.2). Schedule and data as configs/mask_rcnn_hr18.py.
#
# Weight standardisation of every convolution of the backbone, by mmcv. A plain checkpoint would be a wrong start: it
# starts from the checkpoint of the first command; if that is elsewhere, add
# --cfg-options model.backbone.init_cfg.checkpoint=FILE:
#   tools/dist_train.sh configs/imagenet/hrnet18_stnd.py 4
#   tools/dist_train.sh configs/mask_rcnn_hr18_stnd.py 4
_base_ = './mask_rcnn_hr18.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='ConvWS'),
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='work_dirs/hrnet18_stnd/epoch_100.pth',
            prefix='backbone.',
        ),
    )
)
