# README of UniRepLKNet (CVPR 2024): Cascade Mask R-CNN UniRepLKNet-S on COCO 2017, 3x schedule. Published box mAP 53.0,
# mask mAP 45.9; not run here.
#
# Layer decay and stochastic depth as for T:
#   tools/dist_train.sh configs/imagenet/unireplknet_s.py 32
#   tools/dist_train.sh configs/cascade_mask_rcnn_unireplknet_s.py 8 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/unireplknet_s/epoch_300.pth
_base_ = './cascade_mask_rcnn_unireplknet_t.py'

model = dict(
    backbone=dict(arch='S', init_cfg=dict(checkpoint='work_dirs/unireplknet_s/epoch_300.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
