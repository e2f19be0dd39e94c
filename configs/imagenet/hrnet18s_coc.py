# Convolution of Convolution, Table 1, row 10: HRNet18-s, CoC, on ImageNet. Published top-1 accuracy 74.25 % (+- 0.015).
# The paper's optimum: association 2, kernel_plus 2, one super layer, skip, dilate, 1x1 convolutions left plain; super
# kernels start from kaiming, as in the paper. Schedule and data as configs/imagenet/hrnet18s.py. Upstream's HRNet does
# not pass conv_cfg on to its first stage; mmkerv.HRNet reaches it. The neck is the end of the paper's network: its
# bottlenecks (increase_layers) are associated too, its 3x3 convolutions of stride 2 (downsample_layers) stay plain, as
# in the authors' code.
# Super kernels have weight decay like all other weights (operator_rules=False): the paper exempts nothing.
#
#   tools/dist_train.sh configs/imagenet/hrnet18s_coc.py 4
_base_ = './hrnet18s.py'

model = dict(
    backbone=dict(type='mmkerv.HRNet', conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming')),
    neck=[
        dict(
            type='mmkerv.Converted',
            backbone=dict(type='HRFuseScales', in_channels=(18, 36, 72, 144)),
            conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming'),
            where=dict(names='^increase_layers'),
        ),
        dict(type='GlobalAveragePooling'),
    ],
)
optim_wrapper = dict(paramwise_cfg=dict(operator_rules=False))
