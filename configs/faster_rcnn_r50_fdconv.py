# Faster R-CNN R50 with frequency dynamic convolution in its backbone, on COCO 2017. The authors (CVPR 2025) report box
# mAP 39.4, 37.2 without. Schedule and data as configs/faster_rcnn_r50.py.
#
# Where: as the authors, all convolutions of the bottlenecks, 1x1 included, and neither the stem nor the downsampling.
# The recipe freezes stage 1, where the authors still train the gates; frozen, they would stay at 1, so stage 1 is plain
# here. The network starts as the plain one with torchvision's weights. Every image has kernels of its own, which
# with_cp recomputes in backward.
#
#   tools/dist_train.sh configs/faster_rcnn_r50_fdconv.py 8
_base_ = './faster_rcnn_r50.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.FDConv'),
        where=dict(stages=(2, 3, 4), stem=False, names=[r'\.conv\d$']),
        with_cp=True,
    )
)
