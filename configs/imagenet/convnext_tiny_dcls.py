# Dilated Convolution with Learnable Spacings (ICLR 2023), README of ConvNeXt-dcls: ConvNeXt-T-dcls on ImageNet-1k.
# Published top-1 accuracy 82.5 %; we did not repeat it.
#
# Each 7x7 depthwise kernel becomes 34 taps at learned positions in 17x17, which the blocks of a stage share. The
# positions have 5 times the learning rate and no weight decay (OperatorRulesConstructor), and after 20 epochs a loss
# pushes the taps apart. Schedule, data and EMA as mmpretrain's ConvNeXt-T: 4096 images in a step.
#
#   tools/dist_train.sh configs/imagenet/convnext_tiny_dcls.py 32
_base_ = 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'

data_root = 'data/imagenet'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkerv.Converted',
        model=dict(type='ConvNeXt', arch='tiny', drop_path_rate=0.1),
        conv_cfg=dict(type='mmkerv.DCLSConv', kernel_extent=17, points=34, positions_init='normal'),
        where=dict(names=['depthwise_conv']),
        share=dict(names='positions'),
    )
)
optim_wrapper = dict(constructor='mmkerv.OperatorRulesConstructor')
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL'),
    dict(type='mmkerv.RepulsionHook', weight=1.0, begin=20),
]
