# retinanet_mobilenet_shapes.py with InceptionDWConv for every depthwise 3x3: a quarter of the channels each has a 3x3
# kernel, a row and a column of 9, the others are left as they are. These are the settings of the smallest
# InceptionNeXt; with an eighth, as in the larger ones, and 7 it reached mAP_50 0.42 and the plain network 0.51 (one
# seed). tools/model_converters/reparameterize_model.py folds it into depthwise 9x9 kernels with `--split dense`, which
# cost more.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_inceptiondw_shapes.py
_base_ = './retinanet_mobilenet_shapes.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='InceptionDWConv', branch_ratio=0.25, kernel_extent=9),
        where=dict(stem=False, names=['depthwise_conv']),
    )
)
