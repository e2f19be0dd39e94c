# README of ConvNeXt-dcls (Dilated Convolution with Learnable Spacings, ICLR 2023): Cascade Mask R-CNN ConvNeXt-T-dcls
# on COCO 2017, 3x schedule. Published box mAP 51.2, mask mAP 44.5 (ConvNeXt-T 50.4 and 43.7); we did not repeat it.
#
# The backbone of configs/imagenet/convnext_tiny_dcls.py. A plain checkpoint has no weights for its taps, so start from
# one that has: that config's, or the authors', converted by tools/model_converters/dcls_to_mmkerv.py:
#   tools/dist_train.sh configs/imagenet/convnext_tiny_dcls.py 32
#   tools/dist_train.sh configs/cascade_mask_rcnn_convnext_t_dcls.py 8 --amp --cfg-options \
#     model.backbone.model.init_cfg.checkpoint=work_dirs/convnext_tiny_dcls/epoch_300.pth
# Schedule and data as mmdetection's; the positions keep 5 times the learning rate under its layer decay.
_base_ = 'mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

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
    type='OptimWrapper',
    constructor='mmkerv.OperatorRulesConstructor',
    paramwise_cfg=dict(constructor='LearningRateDecayOptimizerConstructor'),
)
custom_hooks = [dict(type='mmkerv.RepulsionHook', weight=1.0, begin=0)]
