# README of UniRepLKNet (CVPR 2024): UniRepLKNet-T on ImageNet-1k. Published top-1 accuracy 83.2 %; not run here.
#
# Schedule, data, stochastic depth and EMA as mmpretrain's ConvNeXt-T: 4096 images in a step.
#
#   tools/dist_train.sh configs/imagenet/unireplknet_t.py 32
_base_ = 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'

data_root = 'data/imagenet'

model = dict(
    backbone=dict(_delete_=True, type='mmkerv.UniRepLKNet', arch='T', drop_path_rate=0.1), head=dict(in_channels=640)
)
optim_wrapper = dict(constructor='mmkerv.OperatorRulesConstructor')
