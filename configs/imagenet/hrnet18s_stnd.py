# Convolution of Convolution, Table 1, row 12: HRNet18-s, standardised, on ImageNet. Published top-1 accuracy 74.59 %
# (+- 0.009). Weight standardisation by mmcv, of every convolution of backbone and neck but the neck's of stride
# 2 (downsample_layers), which the other rows leave plain too. Upstream's HRNet does not pass conv_cfg on to its first
# stage; mmkerv.HRNet reaches it.
#
#   tools/dist_train.sh configs/imagenet/hrnet18s_stnd.py 4
_base_ = './hrnet18s.py'

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
