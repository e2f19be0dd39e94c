# Model of coc.pth.gz, which was written before super_bias became False by default.
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=3, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=4,
        base_channels=2,
        conv_cfg=dict(type='mmkerv.CoCConv', super_bias=True, super_init='kaiming'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=16, loss=dict(type='CrossEntropyLoss')),
)
