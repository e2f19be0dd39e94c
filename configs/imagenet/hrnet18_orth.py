# HRNet18, orthogonalised, on ImageNet: no row of the paper, but the start of Table 2, row 7, and Table 3, row 10.
# Schedule and data as configs/imagenet/hrnet18.py.
# The loss covers backbone and neck but the stem and the neck's convolutions of stride 2, which the other rows leave
# plain.
#
#   tools/dist_train.sh configs/imagenet/hrnet18_orth.py 4
_base_ = './hrnet18.py'

custom_hooks = [
    dict(
        type='mmkerv.OrthogonalityHook',
        weight=0.01,
        where=dict(stem=False, kernel_sizes='all', names=r'^(?!neck\.0\.downsample_layers)'),
    )
]
