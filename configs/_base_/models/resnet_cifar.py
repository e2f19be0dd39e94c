# ResNet for CIFAR-10 (He et al., section 4.2).
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkerv.ResNetCifar', depth=110),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')),
)
