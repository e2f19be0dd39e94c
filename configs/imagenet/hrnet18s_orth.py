# Convolution of Convolution, Table 1, row 11: HRNet18-s, orthogonalised, on ImageNet. Published top-1 accuracy 74.34 %
# (+- 0.082). The weight of the loss is from the paper of orthogonal convolution; this paper does not give its own.
# The loss covers backbone and neck but the stem and the neck's convolutions of stride 2, which the other rows leave
# plain.
#
#   tools/dist_train.sh configs/imagenet/hrnet18s_orth.py 4
_base_ = './hrnet18s.py'

custom_hooks = [
    dict(
        type='mmkerv.OrthogonalityHook',
        weight=0.01,
        where=dict(stem=False, kernel_sizes='all', names=r'^(?!neck\.0\.downsample_layers)'),
    )
]
