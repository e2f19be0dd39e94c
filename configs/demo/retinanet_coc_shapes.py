# The network of `make demo`: retinanet_shapes.py with CoCConv for every convolution but 1x1 and the two output layers.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_coc_shapes.py
#
# Slower to train than its plain counterpart: about 8 minutes on 2 CPU cores. `kaiming` super kernels, the paper's
# start, make the kernels differ from the basic weights from the first iteration on, so folding the trained network is a
# real test.
_base_ = './retinanet_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(conv_cfg=dict(type='CoCConv', super_init='kaiming', super_bias=True)),
    neck=dict(conv_cfg=dict(type='CoCConv', super_init='kaiming', super_bias=True)),
    bbox_head=dict(conv_cfg=dict(type='CoCConv', super_init='kaiming', super_bias=True)),
)
