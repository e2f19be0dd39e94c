# README of UniRepLKNet (CVPR 2024): UniRepLKNet-S on ImageNet-1k. Published top-1 accuracy 83.9 %; not run here.
#
# As unireplknet_t.py, with the stochastic depth of mmpretrain's ConvNeXt-S.
#
#   tools/dist_train.sh configs/imagenet/unireplknet_s.py 32
_base_ = './unireplknet_t.py'

model = dict(backbone=dict(arch='S', drop_path_rate=0.4), head=dict(in_channels=768))
