# README of UniRepLKNet (CVPR 2024): UPerNet UniRepLKNet-S on ADE20K, 160k iterations. Published mIoU 50.5 (51.0 at
# several scales); not run here. As upernet_unireplknet_t_ade20k.py:
#   tools/dist_train.sh configs/imagenet/unireplknet_s.py 32
#   tools/dist_train.sh configs/upernet_unireplknet_s_ade20k.py 8 --cfg-options \
#     model.backbone.init_cfg.checkpoint=work_dirs/unireplknet_s/epoch_300.pth
_base_ = './upernet_unireplknet_t_ade20k.py'

model = dict(
    backbone=dict(arch='S', init_cfg=dict(checkpoint='work_dirs/unireplknet_s/epoch_300.pth')),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
