# retinanet_half_shapes.py with frequency dynamic convolution: every 3x3 of the blocks of stages 2 and 3, 8 frequency
# bands instead of 64. The authors have it in all stages, but not in the stem and the downsampling; stage 4 stays plain
# because making its kernels for each image would take most of the time on a CPU. The network never folds.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_fdconv_shapes.py
_base_ = './retinanet_half_shapes.py'

custom_imports = dict(imports=['mmkerv'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='FDConv', kernel_num=8),
        where=dict(stem=False, stages=(2, 3), names=[r'\.conv\d$']),
    )
)
