# FCN-R50-d8 on VOC 2012 aug with the backbone of configs/imagenet/resnet50_ck.py: separable continuous kernels of 7x7
# in stages 1 and 2. No published figure. Schedule and data as configs/fcn_r50d8_voc.py.
#
# A plain checkpoint has no weights for the continuous kernels, which start at random: torchvision's weights are only a
# start. Better is a backbone trained by configs/imagenet/resnet50_ck.py:
#   --cfg-options model.backbone.init_cfg.checkpoint=FILE model.backbone.init_cfg.prefix=backbone.
_base_ = './fcn_r50d8_voc.py'

model = dict(
    backbone=dict(
        type='mmkerv.ResNet',
        conv_cfg=dict(type='mmkerv.CKConv', kernel_extent=7, separable=True),
        where=dict(stem=False, stages=(1, 2)),
    )
)
