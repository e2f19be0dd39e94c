# Convolution of Convolution, Table 1, row 16, read otherwise: HRNet18, CoC, standardised, with the 1x1 convolutions
# standardised too, as in the rows without CoC. The paper does not say; the authors' code leaves them plain unless asked
# (configs/imagenet/hrnet18_coc_stnd.py).
#
#   tools/dist_train.sh configs/imagenet/hrnet18_coc_stnd_1x1.py 4
_base_ = './hrnet18_coc_stnd.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.Converted',
        backbone=dict(
            type='mmkerv.HRNet',
            arch='w18',
            conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', standardize=True),
        ),
        conv_cfg=dict(type='ConvWS'),
        where=dict(kernel_sizes=(1,)),
    ),
    neck=[
        dict(
            type='mmkerv.Converted',
            backbone=dict(
                type='mmkerv.Converted',
                backbone=dict(type='HRFuseScales', in_channels=(18, 36, 72, 144)),
                conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', standardize=True),
                where=dict(names='^increase_layers'),
            ),
            conv_cfg=dict(type='ConvWS'),
            where=dict(kernel_sizes=(1,)),
        ),
        dict(type='GlobalAveragePooling'),
    ],
)
