# CKCNN of two blocks, 30 channels (98 thousand parameters), for ten classes (the small form of CKConv, ICLR 2022).
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkerv.CKCNN', channels=30, num_blocks=2, hidden=32),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=30,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=None,
    ),
)
