# Convolution of Convolution, Table 2, row 2: RetinaNet-R50, standardised, on COCO 2017. Published box mAP 37.9 (AP50
# 56.9, AP75 40.6, APs 21.3, APm 42.1, APl 50.0). Schedule and data as configs/retinanet_r50.py.
#
# Weight standardisation of every convolution of the backbone, by mmcv. A plain checkpoint would be a wrong start: it
# starts from the checkpoint of the first command; if that is elsewhere, add
# --cfg-options model.backbone.init_cfg.checkpoint=FILE:
#   tools/dist_train.sh configs/imagenet/resnet50_stnd.py 4
#   tools/dist_train.sh configs/retinanet_r50_stnd.py 4
_base_ = './retinanet_r50.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='ConvWS'),
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='work_dirs/resnet50_stnd/epoch_100.pth',
            prefix='backbone.',
        ),
    )
)
