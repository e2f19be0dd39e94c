# HRNet18 with the authors' published settings of CoC, on ImageNet: no row of the paper, which has neither the layer
# norms nor the standardised super kernels that their code has. Their schedule: SGD with learning rate 0.05 and Nesterov
# momentum, x0.1 at epochs 30, 60 and 90, in batches of 88 on each GPU (how many GPUs is not published). Layers as
# configs/imagenet/hrnet18_coc.py.
# Super kernels have weight decay like all other weights (operator_rules=False), as in the paper.
#
#   tools/dist_train.sh configs/imagenet/hrnet18_coc_official.py 4
_base_ = './hrnet18_coc.py'

model = dict(
    backbone=dict(conv_cfg=dict(_delete_=True, type='mmkerv.CoCConv', preset='standard')),
    neck=[
        dict(
            type='mmkerv.Converted',
            backbone=dict(type='HRFuseScales', in_channels=(18, 36, 72, 144)),
            conv_cfg=dict(type='mmkerv.CoCConv', preset='standard'),
            where=dict(names='^increase_layers'),
        ),
        dict(type='GlobalAveragePooling'),
    ],
)
train_dataloader = dict(batch_size=88)
optim_wrapper = dict(optimizer=dict(lr=0.05))
