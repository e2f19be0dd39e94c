# RetinaNet-R18 of half the width on the shapes: the small plain counterpart of the networks below, which train in
# minutes on one core of a CPU. retinanet_shapes.py is the network of full width.
#
#   retinanet_reparam_shapes.py      re-parameterized convolutions in the backbone
#   retinanet_dcls_shapes.py         convolutions with learnable spacings in the backbone
#   retinanet_fdconv_shapes.py       frequency dynamic convolution in the backbone
#   retinanet_condconv_shapes.py     conditionally parameterised convolutions in the backbone
#   retinanet_mobilenet_shapes.py    MobileNetV2 as backbone, the plain counterpart of retinanet_inceptiondw_shapes.py
#   retinanet_unireplknet_shapes.py  UniRepLKNet-A as backbone
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_half_shapes.py
_base_ = './retinanet_shapes.py'

model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
