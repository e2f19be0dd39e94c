# Faster R-CNN with LSKNet-T on COCO 2017. There is no published figure on COCO (the network is from ICCV 2023, for
# rotated objects: configs/oriented_rcnn_lsknet_t.py), and this config was not run.
#
# Optimizer and stochastic depth as the authors' for rotated boxes: AdamW 2e-4 with decay 0.05, batch 16, rate 0.1.
# Schedule and data are mmdetection's 1x. The backbone starts from a classifier, of which the authors publish one:
#   tools/dist_train.sh configs/faster_rcnn_lsknet_t.py 8 --cfg-options \
#     model.backbone.init_cfg.checkpoint=lsk_t_backbone.pth
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.LSKNet',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='lsk_t_backbone.pth'),
    ),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmkerv.OperatorRulesConstructor',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
