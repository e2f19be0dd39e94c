# Kervolutional Neural Networks, section 4.1 and Table 1: L1-norm kervolution. Published: 99.05 (section 4.1); 99.12,
# 74.08 under FGSM (Table 1). Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', kernel='l1'),
            dict(type='mmkerv.KervConv', kernel='l1'),
        )
    )
)
