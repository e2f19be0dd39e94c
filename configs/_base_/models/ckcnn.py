# CKCNN of two blocks, 30 channels (98 thousand parameters), for ten classes (the small form of CKConv, ICLR 2022).
#
# As in the authors' published code, the kernel nets are weight-normalised and start without SIREN's scale (their code
# sets it before the normalisation, which discards it), the convolutions' biases start at 0, and the last layer at
# N(0, 0.01). `weight_norm=False, init='fan_in'` is mmkerv's own form.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkerv.CKCNN', channels=30, num_blocks=2, hidden=32, weight_norm=True, init='official'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=30,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
    ),
)
