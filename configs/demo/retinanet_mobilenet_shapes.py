# RetinaNet on the shapes with MobileNetV2 of half the width as backbone: the plain counterpart of
# retinanet_inceptiondw_shapes.py.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_mobilenet_shapes.py
_base_ = './retinanet_half_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='mmkerv.MobileNetV2', widen_factor=0.5),
    neck=dict(in_channels=[16, 16, 48, 1280]),
)
