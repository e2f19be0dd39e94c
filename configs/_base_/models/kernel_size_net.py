# Two blocks of convolutions and two dense layers for CIFAR-10; Chazareix (2022) describes no more of the network.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkerv.KernelSizeNet'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512, loss=dict(type='CrossEntropyLoss')),
)
