# GoogLeNet for CIFAR-10; the kervolution paper does not describe its network.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkerv.GoogLeNetCifar'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=1024, loss=dict(type='CrossEntropyLoss')),
)
