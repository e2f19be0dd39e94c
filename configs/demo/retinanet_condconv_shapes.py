# retinanet_half_shapes.py with conditionally parameterised convolutions, four experts each, in the last stages, where
# the papers have them: every 3x3 of the blocks of stages 3 and 4. Every image has kernels of its own, so the network
# never folds.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_condconv_shapes.py
_base_ = './retinanet_half_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='CondConv', experts=4),
        where=dict(stem=False, stages=(3, 4), names=[r'\.conv\d$']),
    )
)
