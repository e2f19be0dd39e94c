# RetinaNet on the shapes with MobileNetV2 as backbone: the plain counterpart of retinanet_inceptiondw_shapes.py.
# Reaches box mAP_50 0.70 (one seed).
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_mobilenet_shapes.py
_base_ = './retinanet_half_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='mmkerv.MobileNetV2'),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
