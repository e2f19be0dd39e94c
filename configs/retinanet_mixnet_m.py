# RetinaNet MixNet-M on COCO 2017 by timm, otherwise configs/retinanet_r50.py. No figure is published for this network;
# not run here. Needs timm (pip install 'mmkerv[timm]').
#
# docs/networks.md tells how to save timm's weights as mixnet_m.pth.
#   tools/dist_train.sh configs/retinanet_mixnet_m.py 4
_base_ = './retinanet_r50.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.TimmBackbone',
        model_name='mixnet_m',
        out_indices=(1, 2, 3, 4),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='mixnet_m.pth'),
    ),
    neck=dict(in_channels=[32, 40, 120, 200]),
)
