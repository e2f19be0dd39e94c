# Convolution of Convolution, Table 2, row 4: RetinaNet-R50-CoC on COCO 2017, published box mAP 38.1
# (AP50 57.0, AP75 40.8, APs 21.5, APm 42.0, APl 50.1). Schedule and data as configs/retinanet_r50.py.
#
# Every convolution of the backbone but 1x1 is associated, with the paper's optimum: association 2, kernel_plus 2, one
# super layer, skip, dilate. The operators start as the identity, so any plain ImageNet checkpoint is a valid start, as
# without --cfg-options. The paper starts from a ResNet50-CoC trained on ImageNet (Table 1, row 7):
#   tools/dist_train.sh configs/imagenet/resnet50_coc.py 4
#   tools/dist_train.sh configs/retinanet_r50_coc.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/resnet50_coc/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
# Upstream freezes the stem and stage 1 (frozen_stages=1); their super layers then keep the checkpoint's values. From
# scratch: configs/retinanet_r50_coc_scratch.py.
# Super kernels have weight decay like all other weights (operator_rules=False): the paper exempts nothing.
_base_ = './retinanet_r50.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv')))
optim_wrapper = dict(paramwise_cfg=dict(operator_rules=False))
