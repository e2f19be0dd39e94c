# LSKNet (ICCV 2023): Oriented R-CNN with LSKNet-T on DOTA-v1.0, trained and tested at several scales. Published mAP
# 81.37, on the test set, by DOTA's evaluation server; not run here. Needs mmrotate (pip install 'mmkerv[rotate]') and
# the onedl distribution.
#
# Optimizer, schedule and batch as published: AdamW 2e-4 with decay 0.05, 12 epochs, two images on each of eight GPUs,
# stochastic depth 0.1. With smaller batches users do not reach the published figure. The data are the split images of
# mmrotate's tools/data/dota/split, with split_configs/ms_trainval.json. The model is mmrotate's Oriented R-CNN.
#
# The backbone starts from the authors' ImageNet classifier:
#   tools/dist_train.sh configs/oriented_rcnn_lsknet_t.py 8 --cfg-options \
#     model.backbone.init_cfg.checkpoint=lsk_t_backbone.pth
_base_ = 'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py'

data_root = 'data/split_ms_dota/'

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
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
optim_wrapper = dict(
    constructor='mmkerv.OperatorRulesConstructor',
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
