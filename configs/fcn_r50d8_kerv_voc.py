# FCN-R50-d8 on VOC 2012 aug with a polynomial kervolution (degree 3, balance 2, the ImageNet setting of Kervolutional
# Neural Networks, CVPR 2019, section 5.2) as its first convolution. No published figure: the paper has no segmentation
# experiments. Schedule and data as configs/fcn_r50d8_voc.py.
#
# Plain weights were not trained with the stem's cubic response: torchvision's are only a start. Better is a backbone of
# configs/imagenet/resnet50_kerv.py:
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE model.backbone.init_cfg.prefix=backbone.
# The guard stops a run whose response overflows, and names the layer.
_base_ = './fcn_r50d8_voc.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.KervConv', degree=3, balance=2.0),
        where=dict(stages=()),
    )
)
custom_hooks = [dict(type='mmkerv.KervolutionGuardHook')]
