# Convolution of Convolution, Table 3, row 11: FCN-HRNet18-CoC, on VOC 2012 aug. Published mIoU 74.81 % (mAcc 85.65,
# aAcc 93.97). Schedule and data as configs/fcn_hr18_voc.py.
#
# Every convolution of the backbone but 1x1 is associated. The operators start as the identity, so any plain ImageNet
# checkpoint is a valid start, as without --cfg-options. The paper starts from Table 1, row 15:
#   tools/dist_train.sh configs/imagenet/hrnet18_coc.py 4
#   tools/dist_train.sh configs/fcn_hr18_coc_voc.py 4 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/hrnet18_coc/epoch_100.pth model.backbone.init_cfg.prefix=backbone.
# Super kernels have weight decay like all other weights (operator_rules=False): the paper exempts nothing.
_base_ = './fcn_hr18_voc.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv')))
optim_wrapper = dict(paramwise_cfg=dict(operator_rules=False))
