# RetinaNet-R50 on COCO 2017 with learnable spacings: the 9 taps of each 3x3 convolution of stages 2 to 4 move within
# 7x7. No published figure. Schedule and data as configs/retinanet_r50.py.
#
# The taps start on the grid of the plain kernel, so that any plain ImageNet checkpoint is a valid start, torchvision's
# by default. It folds into a network with 7x7 kernels in their place. Stage 1 is frozen and stays plain.
_base_ = './retinanet_r50.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.DCLSConv', kernel_extent=7),
        where=dict(stem=False, stages=(2, 3, 4)),
    )
)
