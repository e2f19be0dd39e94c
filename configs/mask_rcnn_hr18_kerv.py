# Mask R-CNN-HRNet18 on COCO 2017 with a polynomial kervolution (degree 3, balance 2, the ImageNet setting of
# Kervolutional Neural Networks, CVPR 2019, section 5.2) as its first convolution. No published figure: the paper has no
# instance segmentation experiments. Schedule and data as configs/mask_rcnn_hr18.py.
#
# Plain weights were not trained with the stem's cubic response: batch statistics are learned, and upstream's ImageNet
# weights are only a start. The guard stops a run whose response overflows, and names the layer.
_base_ = './mask_rcnn_hr18.py'

model = dict(
    backbone=dict(
        type='mmkerv.HRNet',
        conv_cfg=dict(type='mmkerv.KervConv', degree=3, balance=2.0),
        where=dict(stages=(), names=('^conv1$',)),
        norm_eval=False,
    )
)
custom_hooks = [dict(type='mmkerv.KervolutionGuardHook')]
