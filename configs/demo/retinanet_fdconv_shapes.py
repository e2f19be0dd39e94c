# retinanet_half_shapes.py with frequency dynamic convolution where its authors have it: every 3x3 of the backbone's
# blocks, neither the stem nor the downsampling. 8 frequency bands instead of 64. Every image has kernels of its own, so
# the network never folds.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_fdconv_shapes.py
_base_ = './retinanet_half_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='FDConv', kernel_num=8),
        where=dict(stem=False, names=[r'\.conv\d$']),
    )
)
