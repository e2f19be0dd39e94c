# MobileNetV3-small with the authors' published settings of CoC, on ImageNet: no row of the paper, which has no layer
# norms. Their schedule: 300 epochs of SGD with learning rate 0.5, a tenth of it for 5000 iterations, poly with power 1
# to 0, in batches of 128 on each GPU (how many GPUs is not published).
#
#   tools/dist_train.sh configs/imagenet/mobilenet_v3_small_coc_official.py 4
_base_ = './mobilenet_v3_small_coc.py'

model = dict(backbone=dict(conv_cfg=dict(_delete_=True, type='mmkerv.CoCConv', preset='light')))
train_dataloader = dict(batch_size=128)
param_scheduler = [
    dict(type='ConstantLR', factor=0.1, by_epoch=False, begin=0, end=5000),
    dict(type='PolyLR', power=1.0, eta_min=0, begin=0, end=300, by_epoch=True, convert_to_iter_based=True),
]
