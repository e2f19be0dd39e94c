# FCN-R50-d8-CoC on VOC 2012 without the additional annotations: no row of the paper, whose Table 3 is trained on VOC
# 2012 aug (configs/fcn_r50d8_coc_voc.py). Schedule and data as configs/fcn_r50d8_voc12.py.
#
# The operators start as the identity, so any plain ImageNet checkpoint is a valid start.
# Super kernels have weight decay like all other weights (operator_rules=False): the paper exempts nothing.
#
#   tools/dist_train.sh configs/fcn_r50d8_coc_voc12.py 4
_base_ = './fcn_r50d8_voc12.py'

model = dict(backbone=dict(conv_cfg=dict(type='mmkerv.CoCConv')))
optim_wrapper = dict(paramwise_cfg=dict(operator_rules=False))
