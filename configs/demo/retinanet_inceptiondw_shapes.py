# retinanet_mobilenet_shapes.py with InceptionDWConv for every depthwise 3x3: an eighth of the channels each has a 3x3
# kernel, a row and a column of 7, the others are left as they are. tools/model_converters/reparameterize_model.py folds
# it into depthwise 7x7 kernels with `--split dense`, which cost more.
#
#   python -m mmkerv.datasets.shapes data/shapes --layout coco
#   python tools/train.py configs/demo/retinanet_inceptiondw_shapes.py
_base_ = './retinanet_mobilenet_shapes.py'

model = dict(
    backbone=dict(
        conv_cfg=dict(type='InceptionDWConv', kernel_extent=7),
        where=dict(stem=False, names=['depthwise_conv']),
    )
)
