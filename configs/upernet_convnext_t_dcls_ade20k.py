# README of ConvNeXt-dcls (Dilated Convolution with Learnable Spacings, ICLR 2023): UPerNet ConvNeXt-T-dcls on ADE20K,
# 160k iterations. Published mIoU 47.1 (ConvNeXt-T 46.0); we did not repeat it.
#
# The backbone of configs/imagenet/convnext_tiny_dcls.py. A plain checkpoint has no weights for its taps, so start from
# one that has: that config's, or the authors', converted by tools/model_converters/dcls_to_mmkerv.py:
#   tools/dist_train.sh configs/imagenet/convnext_tiny_dcls.py 32
#   tools/dist_train.sh configs/upernet_convnext_t_dcls_ade20k.py 8 --amp --cfg-options \
#     model.backbone.model.init_cfg.checkpoint=work_dirs/convnext_tiny_dcls/epoch_300.pth
# Schedule and data as mmsegmentation's; the positions keep 5 times the learning rate under its layer decay.
_base_ = 'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.Converted',
        model=dict(
            type='mmpretrain.ConvNeXt',
            arch='tiny',
            out_indices=[0, 1, 2, 3],
            drop_path_rate=0.4,
            layer_scale_init_value=1.0,
            gap_before_final_norm=False,
            init_cfg=dict(
                type='Pretrained', checkpoint='work_dirs/convnext_tiny_dcls/epoch_300.pth', prefix='backbone.'
            ),
        ),
        conv_cfg=dict(type='mmkerv.DCLSConv', kernel_extent=17, points=34, positions_init='normal'),
        where=dict(names=['depthwise_conv']),
        share=dict(names='positions'),
    )
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmkerv.OperatorRulesConstructor',
    paramwise_cfg=dict(
        constructor='LearningRateDecayOptimizerConstructor', decay_rate=0.9, decay_type='stage_wise', num_layers=6
    ),
)
custom_hooks = [dict(type='mmkerv.RepulsionHook', weight=1.0, begin=0, by_epoch=False)]
