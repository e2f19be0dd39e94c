# README of UniRepLKNet (CVPR 2024): Cascade Mask R-CNN UniRepLKNet-T on COCO 2017, 3x schedule. Published box mAP 51.7,
# mask mAP 44.9; not run here.
#
# AdamW 1e-4 with decay 0.05, layer decay 0.8 and stochastic depth 0.3, as published; data and schedule as mmdetection's
# ConvNeXt-T. The backbone starts from the classifier of configs/imagenet/unireplknet_t.py:
#   tools/dist_train.sh configs/imagenet/unireplknet_t.py 32
#   tools/dist_train.sh configs/cascade_mask_rcnn_unireplknet_t.py 8 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/unireplknet_t/epoch_300.pth
_base_ = 'mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.UniRepLKNet',
        arch='T',
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/unireplknet_t/epoch_300.pth', prefix='backbone.'),
    ),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmkerv.LayerDecayConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.8, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
custom_hooks = [dict(type='mmkerv.FiniteFeaturesHook')]
