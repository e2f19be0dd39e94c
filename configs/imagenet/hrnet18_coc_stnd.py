# Convolution of Convolution, Table 1, row 16: HRNet18, CoC, standardised, on ImageNet. Published top-1 accuracy 76.98 %
# (+- 0.01). The associated kernels are standardised; 1x1 convolutions stay plain, as in the authors' code.
# With them standardised as well: configs/imagenet/hrnet18_coc_stnd_1x1.py.
#
#   tools/dist_train.sh configs/imagenet/hrnet18_coc_stnd.py 4
_base_ = './hrnet18_coc.py'

model = dict(
    backbone=dict(conv_cfg=dict(standardize=True)),
    neck=[
        dict(
            type='mmkerv.Converted',
            backbone=dict(type='HRFuseScales', in_channels=(18, 36, 72, 144)),
            conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', standardize=True),
            where=dict(names='^increase_layers'),
        ),
        dict(type='GlobalAveragePooling'),
    ],
)
