# Mask R-CNN R50 on COCO 2017 by the recipe of FDConv's authors: the plain network that
# configs/mask_rcnn_r50_adamw_fdconv.py is compared with.
#
# AdamW 1e-4, weight decay 0.05 but for norms, 12 epochs, steps at 10 and 11, images of many sizes as DETR has them,
# mixed precision. It is not upstream's 1x recipe, whose figures (box 39.6, mask 36.4 in the authors' table) are
# therefore no baseline for it: train this config. The authors take four images on each GPU; of eight GPUs, 32 in all.
#
#   tools/dist_train.sh configs/mask_rcnn_r50_adamw.py 8 --amp
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(type='RandomChoiceResize', scales=[(side, 1333) for side in range(480, 801, 32)], keep_ratio=True),
            ],
            [
                dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                dict(type='RandomChoiceResize', scales=[(side, 1333) for side in range(480, 801, 32)], keep_ratio=True),
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(batch_size=4, num_workers=4, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[10, 11], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=32)
