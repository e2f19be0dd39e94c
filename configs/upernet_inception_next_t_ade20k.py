# UPerNet InceptionNeXt-T on ADE20K by timm, as mmsegmentation's ConvNeXt-T, 160k iterations. The authors' code for
# segmentation was never released, and we have no figure; not run here. Needs timm (pip install 'mmkerv[timm]').
#
# docs/networks.md tells how to save timm's weights as inception_next_tiny.pth.
#   tools/dist_train.sh configs/upernet_inception_next_t_ade20k.py 8
_base_ = 'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'

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
    paramwise_cfg=dict(layer_decay_rate=0.9, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
