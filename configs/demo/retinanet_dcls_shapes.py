# retinanet_half_shapes.py with learnable spacings: the 9 taps of each 3x3 of stages 2 and 3 move within 5x5. It folds
# into a network with 5x5 kernels there. Stage 4 stays plain because placing its 2 million taps would take most of the
# time on a CPU.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_dcls_shapes.py
_base_ = './retinanet_half_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='DCLSConv', kernel_extent=5),
        where=dict(stem=False, stages=(2, 3)),
    )
)
