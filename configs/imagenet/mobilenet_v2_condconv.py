# MobileNetV2 with conditionally parameterised convolutions, four experts each, in all but the stem, on ImageNet; no
# published figure of this form. Otherwise as configs/imagenet/mobilenet_v2.py. The authors of ODConv, whose gates
# --cfg-options adds as in configs/imagenet/resnet50_condconv.py, report Faster R-CNN with MobileNetV2 31.8 -> 35.5.
#
#   tools/dist_train.sh configs/imagenet/mobilenet_v2_condconv.py 4
_base_ = './mobilenet_v2.py'

model = dict(
    backbone=dict(
        type='mmkerv.MobileNetV2',
        conv_cfg=dict(type='mmkerv.CondConv', experts=4),
        where=dict(stem=False),
    )
)
