# Faster R-CNN with MobileNetV2 on COCO 2017: the plain network that configs/faster_rcnn_mobilenet_v2_condconv.py is
# compared with. The authors of ODConv (ICLR 2022) report box mAP 31.8 for theirs. Upstream's 1x recipe: 1333 x 800,
# flip only, SGD 0.02, 12 epochs, two images on each of eight GPUs. With another number of images add --auto-scale-lr.
#
#   tools/dist_train.sh configs/faster_rcnn_mobilenet_v2.py 8
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
