# Kervolutional Neural Networks, section 4.1, Figure 2 (a) and (b): sigmoid kervolution, tanh(s). Published: 98 % twice
# as slowly as the CNN. Otherwise as configs/mnist/lenet5.py.
_base_ = './lenet5.py'

model = dict(
    backbone=dict(
        layers=(
            dict(type='mmkerv.KervConv', kernel='sigmoid'),
            dict(type='mmkerv.KervConv', kernel='sigmoid'),
        )
    )
)
