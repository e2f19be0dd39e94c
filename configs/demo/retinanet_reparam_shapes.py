# retinanet_half_shapes.py with re-parameterized convolutions: each 3x3 of stages 2 to 4 has a 1x1, and where the
# channels allow it the identity, beside it, each with a batch norm (RepVGG). It folds into the plain network.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_reparam_shapes.py
_base_ = './retinanet_half_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='ReparamConv', preset='repvgg'),
        where=dict(stem=False, stages=(2, 3, 4)),
    )
)
