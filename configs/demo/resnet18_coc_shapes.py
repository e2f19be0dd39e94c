# resnet18_shapes.py with CoCConv for every convolution but 1x1. Kaiming super kernels, the paper's start.
#
#   python tools/train.py configs/demo/resnet18_coc_shapes.py
_base_ = './resnet18_shapes.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', super_bias=True)))
