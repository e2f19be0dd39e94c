# Mask R-CNN InceptionNeXt-T on COCO 2017 by timm, as mmdetection's ConvNeXt-T (3x). The authors' code for detection was
# never released, and we have no figure; not run here. Needs timm (pip install 'mmkerv[timm]').
#
# docs/networks.md tells how to save timm's weights as inception_next_tiny.pth.
#   tools/dist_train.sh configs/mask_rcnn_inception_next_t.py 8
_base_ = 'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.TimmBackbone',
        model_name='inception_next_tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='inception_next_tiny.pth'),
    )
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmkerv.LayerDecayConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.95, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
