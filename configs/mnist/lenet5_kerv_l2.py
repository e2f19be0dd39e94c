# Kervolutional Neural Networks, section 4.1 and Table 1: L2-norm kervolution. Published: 99.19 (section 4.1); 99.11,
# 76.36 under FGSM (Table 1). Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', kernel='l2'),
            dict(type='mmkerv.KervConv', kernel='l2'),
        )
    )
)
