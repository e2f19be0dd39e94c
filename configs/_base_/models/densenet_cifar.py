# DenseNet-40 with growth 12 for CIFAR-10 (Huang et al., section 4.2).
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkerv.DenseNetCifar', depth=40, growth_rate=12),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=448, loss=dict(type='CrossEntropyLoss')),
)
