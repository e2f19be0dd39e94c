# fcn_shapes.py with CoCConv for every convolution but 1x1. Kaiming super kernels, the paper's start.
#
#   python tools/train.py configs/demo/fcn_coc_shapes.py
_base_ = './fcn_shapes.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', super_bias=True)),
    decode_head=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', super_bias=True)),
    auxiliary_head=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', super_bias=True)),
)
