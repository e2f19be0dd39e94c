# HRNet18, standardised, on ImageNet: no row of the paper, but the start of configs/mask_rcnn_hr18_stnd.py and
# configs/fcn_hr18_stnd_voc.py. Schedule and data as configs/imagenet/hrnet18.py, layers as
# configs/imagenet/hrnet18s_stnd.py.
#
#   tools/dist_train.sh configs/imagenet/hrnet18_stnd.py 4
_base_ = './hrnet18.py'

model = dict(
    backbone=dict(type='mmkerv.HRNet', conv_cfg=dict(type='ConvWS'), where=dict(kernel_sizes='all')),
    neck=[
        dict(
            type='mmkerv.Converted',
            backbone=dict(type='HRFuseScales', in_channels=(18, 36, 72, 144)),
            conv_cfg=dict(type='ConvWS'),
            where=dict(kernel_sizes='all', names='^(increase_layers|final_layer)'),
        ),
        dict(type='GlobalAveragePooling'),
    ],
)
