# RetinaNet-R50 on COCO 2017 with the backbone of configs/imagenet/resnet50_ck.py: separable continuous kernels of 7x7
# in stages 1 and 2. No published figure. Schedule and data as configs/retinanet_r50.py.
#
# A plain checkpoint has no weights for the continuous kernels, which start at random: the first stages and the batch
# statistics are learned, and torchvision's weights are only a start. Better is a backbone trained by
# configs/imagenet/resnet50_ck.py:
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE model.backbone.init_cfg.prefix=backbone.
_base_ = './retinanet_r50.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.CKConv', kernel_extent=7, separable=True),
        where=dict(stem=False, stages=(1, 2)),
        frozen_stages=-1,
        norm_eval=False,
    )
)
