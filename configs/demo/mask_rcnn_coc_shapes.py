# mask_rcnn_shapes.py with CoCConv for every convolution but 1x1, the output layers and the region proposals' one, which
# takes no conv_cfg. Kaiming super kernels, the paper's start.
#
#   python tools/train.py configs/demo/mask_rcnn_coc_shapes.py
_base_ = './mask_rcnn_shapes.py'

model = dict(
    backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', super_bias=True)),
    neck=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', super_bias=True)),
    roi_head=dict(mask_head=dict(conv_cfg=dict(type='mmkerv.CoCConv', super_init='kaiming', super_bias=True))),
)
