# RetinaNet-R50 on COCO 2017 with a polynomial kervolution (degree 3, balance 2, the ImageNet setting of Kervolutional
# Neural Networks, CVPR 2019, section 5.2) as its first convolution. No published figure: the paper has no detection
# experiments. Schedule and data as configs/retinanet_r50.py.
#
# Plain weights were not trained with the stem's cubic response: the stem and the batch statistics are learned, and
# torchvision's weights are only a start. Better is a backbone of configs/imagenet/resnet50_kerv.py:
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE model.backbone.init_cfg.prefix=backbone.
# The guard stops a run whose response overflows, and names the layer.
_base_ = './retinanet_r50.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.KervConv', degree=3, balance=2.0),
        where=dict(stages=()),
        frozen_stages=-1,
        norm_eval=False,
    )
)
custom_hooks = [dict(type='mmkerv.KervolutionGuardHook')]
