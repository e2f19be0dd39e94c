# Convolution of Convolution, Table 2, row 8: Mask R-CNN-HRNet18-CoC, on COCO 2017. Published mask mAP 35.6 (AP50 56.2,
# AP75 38.2, APs 20.3, APm 38.1, APl 47.8). Schedule and data as configs/mask_rcnn_hr18.py.
#
# Every convolution of the backbone but 1x1 is associated. The operators start as the identity, so any plain ImageNet
# checkpoint is a valid start, as without --cfg-options. The paper starts from Table 1, row 15:
#   tools/dist_train.sh configs/imagenet/hrnet18_coc.py 4
#   tools/dist_train.sh configs/mask_rcnn_hr18_coc.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/hrnet18_coc/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
# Super kernels have weight decay like all other weights (operator_rules=False): the paper exempts nothing.
_base_ = './mask_rcnn_hr18.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv')))
optim_wrapper = dict(paramwise_cfg=dict(operator_rules=False))
