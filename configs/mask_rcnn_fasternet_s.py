# COCO table of FasterNet (CVPR 2023): Mask R-CNN FasterNet-S on COCO 2017, 1x schedule. Published box mAP 39.9, mask
# mAP 36.9; not run here. Data and schedule are mmdetection's; AdamW 1e-4 with decay 0.05 is our choice. Needs timm
# (pip install 'mmkerv[timm]').
#
# docs/networks.md tells how to save timm's weights as fasternet_s.pth.
#   tools/dist_train.sh configs/mask_rcnn_fasternet_s.py 8
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.TimmBackbone',
        model_name='fasternet_s',
        out_indices=(0, 1, 2, 3),
        norm_eval=True,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='fasternet_s.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
)
