# Convolution of Convolution, Table 1, row 13: HRNet18-s, CoC, orthogonalised, on ImageNet. Published top-1 accuracy
# 75.14 % (+- 0.023). The weight of the loss is from the paper of orthogonal convolution; this paper does not give its
# own. It acts on the associated kernels, which have no super bias, as in the authors' settings: a super bias moves all
# taps of four filters at once, and with this loss it diverges.
# The loss covers backbone and neck but the stem and the neck's convolutions of stride 2, which the other rows leave
# plain.
#
#   tools/dist_train.sh configs/imagenet/hrnet18s_coc_orth.py 4
_base_ = './hrnet18s_coc.py'

custom_hooks = [
    dict(
        type='mmkerv.OrthogonalityHook',
        weight=0.01,
        where=dict(stem=False, kernel_sizes='all', names=r'^(?!neck\.0\.downsample_layers)'),
    )
]
