# ResNet-50 with conditionally parameterised convolutions in stages 3 and 4, four experts each, on ImageNet; no
# published figure. Otherwise as configs/imagenet/resnet50.py. All four gates of ODConv:
#   --cfg-options model.backbone.conv_cfg.routing=softmax model.backbone.conv_cfg.reduction=0.0625 \
#     model.backbone.conv_cfg.channel=True model.backbone.conv_cfg.filter=True model.backbone.conv_cfg.spatial=True
#
#   tools/dist_train.sh configs/imagenet/resnet50_condconv.py 4
_base_ = './resnet50.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.CondConv', experts=4),
        where=dict(stem=False, stages=(3, 4), names=[r'\.conv\d$']),
    )
)
