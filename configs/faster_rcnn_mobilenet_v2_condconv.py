# Faster R-CNN with MobileNetV2 and omni-dimensional dynamic convolution, four experts, on COCO 2017. Its authors (ICLR
# 2022) report box mAP 35.5, 31.8 without. Schedule and data as configs/faster_rcnn_mobilenet_v2.py.
#
# The authors start from their classifier, whose recipe anneals the temperature and drops out 0.2. The first command
# trains such a classifier, without these two; without it, the network starts as the plain one with upstream's weights.
#
#   tools/dist_train.sh configs/imagenet/mobilenet_v2_condconv.py 4 --cfg-options \
#     model.backbone.conv_cfg.routing=softmax model.backbone.conv_cfg.reduction=0.0625 \
#     model.backbone.conv_cfg.channel=True model.backbone.conv_cfg.filter=True model.backbone.conv_cfg.spatial=True
#   tools/dist_train.sh configs/faster_rcnn_mobilenet_v2_condconv.py 8 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/mobilenet_v2_condconv/epoch_300.pth \
#     model.backbone.init_cfg.prefix=backbone.
_base_ = './faster_rcnn_mobilenet_v2.py'

gates = dict(channel=True, filter=True, spatial=True)
model = dict(
    backbone=dict(
        type='mmkerv.MobileNetV2',
        conv_cfg=dict(type='mmkerv.CondConv', experts=4, routing='softmax', reduction=1 / 16, **gates),
        where=dict(stem=False),
    )
)
