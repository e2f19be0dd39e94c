# Convolution of Convolution, Table 3, row 5: FCN-R50-d8-CoC, on VOC 2012 aug. Published mIoU 69.52 % (mAcc 79.14, aAcc
# 92.83). Schedule and data as configs/fcn_r50d8_voc.py.
#
# Every convolution of the backbone but 1x1 is associated. The operators start as the identity, so any plain ImageNet
# checkpoint is a valid start, as without --cfg-options. The paper starts from Table 1, row 7:
#   tools/dist_train.sh configs/imagenet/resnet50_coc.py 4
#   tools/dist_train.sh configs/fcn_r50d8_coc_voc.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/resnet50_coc/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
# Super kernels have weight decay like all other weights (operator_rules=False): the paper exempts nothing.
_base_ = './fcn_r50d8_voc.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv')))
optim_wrapper = dict(paramwise_cfg=dict(operator_rules=False))
