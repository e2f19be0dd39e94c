# README of UniRepLKNet (CVPR 2024): UPerNet UniRepLKNet-T on ADE20K, 160k iterations. Published mIoU 48.6 (49.1 at
# several scales); not run here.
#
# AdamW 1e-4 without layer decay and stochastic depth 0.2, as published; data and schedule of mmsegmentation's
# ConvNeXt-T:
#   tools/dist_train.sh configs/imagenet/unireplknet_t.py 32
#   tools/dist_train.sh configs/upernet_unireplknet_t_ade20k.py 8 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/unireplknet_t/epoch_300.pth
_base_ = 'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.UniRepLKNet',
        arch='T',
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/unireplknet_t/epoch_300.pth', prefix='backbone.'),
    ),
    decode_head=dict(in_channels=[80, 160, 320, 640]),
    auxiliary_head=dict(in_channels=320),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmkerv.OperatorRulesConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
custom_hooks = [dict(type='mmkerv.FiniteFeaturesHook')]
