# retinanet_mobilenet_shapes.py with InceptionDWConv for every depthwise 3x3: a quarter of the channels each has a 3x3
# kernel, a row and a column of 5, the others are left as they are. Reaches box mAP_50 0.51 where the plain network has
# 0.70 (one seed): small feature maps gain nothing from long rows and columns. tools/model_converters/
# reparameterize_model.py folds it into depthwise 5x5 kernels with `--split dense`, which cost more.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_inceptiondw_shapes.py
_base_ = './retinanet_mobilenet_shapes.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='InceptionDWConv', branch_ratio=0.25, kernel_extent=5),
        where=dict(stem=False, names=['depthwise_conv']),
    )
)
